"""scifact by our harness and by mteb's evaluator: the same nDCG@10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.timing import TimingStack

from benchmarks.evalsets import load_set
from benchmarks.report import CACHE, make_parser, write_report
from corpora.folders import sets_folder
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import EvalSet, VectorCache
from rag_embed.evaluation.arms import TITLED
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.mteb import MtebEncoder
from rag_embed.evaluation.ranking import rank
from rag_embed.evaluation.vectors import Vectors, as_isolated

QUICK_DOCUMENTS = 20


class LocalTask(AbsTaskRetrieval):
    """A set from this disk as a task of mteb, each document one entry of the corpus."""

    metadata = TaskMetadata(
        name="LocalScifact",
        description="scifact, read from a local folder",
        dataset={"path": "local", "revision": "local"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def fill(self, evalset: EvalSet) -> LocalTask:
        """Take documents, queries and judgements of a set."""
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(
                        [{"id": d.doc_id, "title": d.title, "text": d.text} for d in evalset.documents]
                    ),
                    "queries": Dataset.from_list(
                        [{"id": query, "text": text} for query, text in evalset.queries.items()]
                    ),
                    "relevant_docs": {
                        query: {gold.rpartition("#")[0]: grade for gold, grade in golds.items()}
                        for query, golds in evalset.golds.items()
                    },
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True
        return self

    def score(self, encoder: MtebEncoder) -> Mapping[str, float]:
        """Run mteb's evaluator."""
        scores: Mapping[str, float] = self._evaluate_subset(
            encoder,
            self.dataset["default"]["test"],
            encode_kwargs={"batch_size": 64, "show_progress_bar": False},
            hf_split="test",
            hf_subset="default",
            timer=TimingStack(),
        )
        return scores


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--documents", type=int, default=None, help="a sample instead of all")
    options = parser.parse_args(argv)
    if not (sets_folder() / "scifact" / "corpus.jsonl").is_file():
        print("mteb_agreement: skipped, scifact is not in $RAG_EMBED_EVAL nor in ../shared/eval")
        return
    evalset = load_set("scifact", documents=QUICK_DOCUMENTS if options.quick else options.documents)
    model = as_isolated(ContextualEmbedding(dtype="float32"))
    cache = VectorCache(CACHE)
    vectors = Vectors(evalset.documents, cache=cache)
    chunks = vectors.chunks(model, with_title=True)
    queries = vectors.queries(model, list(evalset.queries.values()))
    ranking = rank((queries @ chunks.T).numpy(), evalset.competing())
    ours = measure(ranking, evalset.golds, evalset.answer_ids)[MAIN_MEASURE].mean()
    theirs = LocalTask().fill(evalset).score(MtebEncoder(model, cache=cache))
    profile = model.encoder.profile
    write_report(
        "mteb_agreement",
        options,
        model=f"{profile.name}, sha256 {profile.weights_sha256[:12]}, float32",
        data="scifact",
        n=len(evalset.queries),
        interval="none; both are means over the same queries",
        results={
            "documents": len(evalset.documents),
            "queries": len(evalset.queries),
            "arm": TITLED,
            "ours": round(100 * float(ours), 3),
            "mteb": round(100 * theirs["ndcg_at_10"], 3),
        },
    )


if __name__ == "__main__":
    main()
