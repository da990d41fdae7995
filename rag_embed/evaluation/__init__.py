"""How should this corpus be searched? Sets, arms, metrics, intervals and a verdict. Needs the extra `eval`.

evalset = read_set(folder)                       # or documents_as_set, make_proxy_queries
model = ContextualEmbedding()
evaluation = evaluate(evalset, make_arms(model, has_titles=evalset.has_titles), model=model)
evaluation.verdict.sentence
"""

from rag_embed.evaluation.arms import Arm, choose_arms, make_arms
from rag_embed.evaluation.cache import VectorCache
from rag_embed.evaluation.chunking import rechunk_set
from rag_embed.evaluation.costs import Cost, Costs
from rag_embed.evaluation.documents import documents_as_set, read_queries
from rag_embed.evaluation.fitting import FittedWeights, Weights
from rag_embed.evaluation.harness import evaluate
from rag_embed.evaluation.layouts import read_set
from rag_embed.evaluation.proxies import make_proxy_queries
from rag_embed.evaluation.results import Evaluation
from rag_embed.evaluation.sets import EvalDocument, EvalSet, GoldSpan, sample_set
from rag_embed.evaluation.verdict import Verdict, decide

__all__ = [
    "Arm",
    "Cost",
    "Costs",
    "EvalDocument",
    "EvalSet",
    "Evaluation",
    "FittedWeights",
    "GoldSpan",
    "VectorCache",
    "Verdict",
    "Weights",
    "choose_arms",
    "decide",
    "documents_as_set",
    "evaluate",
    "make_arms",
    "make_proxy_queries",
    "read_queries",
    "read_set",
    "rechunk_set",
    "sample_set",
]
