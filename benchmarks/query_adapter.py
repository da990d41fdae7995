"""Does late interaction gain by an adapter of the question's side alone, trained on lists?

Chunks keep their token states; only the states of a question's tokens are trained, on first-stage lists of
which half are the best by vectors and half are drawn. Khattab & Zaharia 2020, arXiv:2004.12832, train both
sides; RankNet is Burges et al. 2005, "Learning to Rank using Gradient Descent", section 3. It gained
nothing on texts of other kinds than it was trained on (docs/decisions/reranking.md), so nothing of it is in
the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from benchmarks.context import SETS as CONTEXT_SETS
from benchmarks.evalsets import find_sets, load_set
from benchmarks.late_interaction import find_best
from benchmarks.report import CACHE, make_parser, write_set_report
from corpora.sources import read_sources
from rag_embed import ContextualEmbedding, load_encoder
from rag_embed.encoder import Encoder
from rag_embed.evaluation import Arm, EvalSet, VectorCache
from rag_embed.evaluation.bootstrap import mean_interval
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import RERANK_CANDIDATES, Ranking, rank
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.vectors import Vectors
from rag_embed.fusion import best_first, fuse
from rag_embed.late_chunking import embed_isolated
from rag_embed.max_sim import DEFAULT_FORM, to_units
from rag_embed.training.documents import TrainingDocument, WindowSampler, split_documents

Loss = Literal["listwise", "ranknet"]

SETS: dict[str, int | None] = {"squad_half": 8, "obliqa_half": 1, **CONTEXT_SETS}
QUICK_SETS = ("cuad_small",)
TRAINED_ON = ("scifact", "qmsum_train", "medquad_train", "medquad_anonymised")
"""Sets of the same sources as the training texts; their other documents are asked."""
CANDIDATES, TEMPERATURE, LEARNING_RATE, RANK = 16, 0.02, 5e-4, 16
WEIGHTS = {"hybrid": (0.25, 0.5), "vectors": (0.5, 1.0)}


@dataclass(frozen=True, slots=True)
class Step:
    """Questions and chunks of some windows.

    Attributes:
        questions: Texts.
        golds: Row of the answer of each.
        first_stage: Cosines of questions and chunks.
        tokens: Unit token vectors of the chunks, as a store keeps them.
        is_candidate: Whether a chunk may stand in the list of a question.
    """

    questions: list[str]
    golds: list[int]
    first_stage: Float[Tensor, "questions chunks"]
    tokens: list[Float[Tensor, "_ dim"]]
    is_candidate: torch.Tensor


class QueryAdapter:
    """An encoder whose low-rank updates read questions.

    Args:
        base: The untouched encoder.
        seed: Of the first weights.
    """

    def __init__(self, base: Encoder, *, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.encoder = Encoder(base.profile, device=base.device, dtype=torch.float32)
        model = self.encoder.trainable_model()
        torch.manual_seed(seed)
        config = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", exclude_modules=r".*pooler.*"
        )
        inject_adapter_in_model(config, model)
        self.parameters = [each for each in model.parameters() if each.requires_grad]

    def read(self, questions: Sequence[str]) -> list[Float[Tensor, "_ dim"]]:
        """Unit states of the questions' own tokens."""
        encoder = self.encoder
        before, behind = len(encoder.prefix_ids), len(encoder.suffix_ids)
        ids = [encoder.tokenize(question).ids[: encoder.capacity] for question in questions]
        whole = [
            np.concatenate([encoder.prefix_ids, each, encoder.suffix_ids]).astype(np.int64) for each in ids
        ]
        states = encoder.forward(whole)
        return [normalize(each[before : len(each) - behind], dim=1) for each in states]


class StepReader:
    """Makes steps out of training documents.

    Args:
        documents: With questions.
        base: Reads questions for the first stage.
        context: Reads windows.
    """

    def __init__(self, documents: Sequence[TrainingDocument], base: Encoder, context: Encoder) -> None:
        self._base, self._context = base, context
        train, _ = split_documents([each for each in documents if each.pairs], held_out=0.08)
        self._sampler = WindowSampler(
            train,
            base,
            window_tokens=384,
            head_tokens=64,
            windows_per_step=16,
            windows_per_document=2,
        )

    @torch.no_grad()
    def read(self, step: int) -> Step:
        """Read the windows of a step, by frozen encoders."""
        windows = self._sampler.draw(step)
        states = self._context.forward([window.ids for window in windows])
        chunks = [
            state[span.start : span.end]
            for window, state in zip(windows, states, strict=True)
            for span in window.token_spans
        ]
        first_rows = np.cumsum([0, *(len(window.chunks) for window in windows)]).tolist()
        askers = [window.document for window in windows for _ in window.questions]
        owners = [window.document for window in windows for _ in window.chunks]
        questions = [question for window in windows for question in window.questions]
        vectors = normalize(torch.stack([each.mean(dim=0) for each in chunks]), dim=1)
        return Step(
            questions,
            [row + gold for row, window in zip(first_rows, windows, strict=False) for gold in window.golds],
            # A clone, because what is made in inference mode takes no part in a backward pass.
            embed_isolated(self._base, questions).clone() @ vectors.T,
            [torch.from_numpy(to_units(DEFAULT_FORM.keep(each).numpy())) for each in chunks],
            torch.tensor([[a is o or a.is_rival_of(o) for o in owners] for a in askers]),
        )


def train(
    documents: Sequence[TrainingDocument], kinds: Mapping[str, tuple[Loss, int]], *, steps: int
) -> dict[str, QueryAdapter]:
    """Train adapters of the question's side, all of them on the same windows; kinds name loss and seed."""
    base = load_encoder(dtype="float32")
    context = load_encoder(dtype="float32", adapter="minilm-context")
    reader = StepReader(documents, base, context)
    adapters = {name: QueryAdapter(base, seed=seed) for name, (_, seed) in kinds.items()}
    optimizers = {
        name: torch.optim.AdamW(adapter.parameters, lr=LEARNING_RATE, weight_decay=0.01)
        for name, adapter in adapters.items()
    }
    generators = {name: np.random.default_rng(seed) for name, (_, seed) in kinds.items()}
    warmup = max(1, steps // 10)
    for number in range(steps):
        rate = LEARNING_RATE * min((number + 1) / warmup, (steps - number) / max(steps - warmup, 1))
        step = reader.read(number)
        for name, adapter in adapters.items():
            for group in optimizers[name].param_groups:
                group["lr"] = rate
            total = _loss(adapter, step, loss=kinds[name][0], generator=generators[name])
            optimizers[name].zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(adapter.parameters, 1.0)
            optimizers[name].step()
    return adapters


def _loss(
    adapter: QueryAdapter, step: Step, *, loss: Loss, generator: np.random.Generator
) -> Float[Tensor, ""]:
    losses = []
    for row, (states, gold) in enumerate(zip(adapter.read(step.questions), step.golds, strict=True)):
        others = step.is_candidate[row].clone()
        others[gold] = False
        order = (
            step.first_stage[row]
            .masked_fill(~others, -torch.inf)
            .argsort(descending=True)[: int(others.sum())]
        )
        hard = order[: CANDIDATES // 2].tolist()
        rest = generator.permutation(order[CANDIDATES // 2 :].numpy())[: CANDIDATES // 2 - 1].tolist()
        scores = torch.stack([(states @ step.tokens[c].T).amax(dim=1).mean() for c in [gold, *hard, *rest]])
        if loss == "listwise":
            losses.append(cross_entropy(scores[None] / TEMPERATURE, torch.zeros(1, dtype=torch.long)))
        else:
            losses.append(softplus((scores[1:] - scores[0]) / TEMPERATURE).mean())
    return torch.stack(losses).mean()


@torch.no_grad()
def measure_set(evalset: EvalSet, adapters: dict[str, QueryAdapter], cache: VectorCache) -> dict[str, object]:
    """Plain late interaction, and with each adapter, behind both first stages."""
    model = ContextualEmbedding(strategy="late", dtype="float32")
    searcher = Searcher(evalset, model, Vectors(evalset.documents, cache=cache))
    used = searcher.sliced[evalset.main_slice]
    arms = [
        Arm(stage, {"strategy": "late"}, method=stage, with_title=evalset.has_titles) for stage in WEIGHTS
    ]
    firsts = [searcher.rank(arm, evalset.main_slice) for arm in arms]
    kept = [to_units(each) for each in searcher.chunk_tokens(arms[0])]
    questions = {"plain": [query for query in searcher.query_tokens(arms[0]) if query is not None]}
    if len(questions["plain"]) < len(searcher.queries):
        raise SystemExit(f"{evalset.name} has questions that are longer than the encoder reads")
    for name, adapter in adapters.items():
        questions[name] = [adapter.read([query])[0].numpy() for query in searcher.queries]
    scores: dict[tuple[str, str, float], Float[np.ndarray, " queries"]] = {}
    rows = []
    for arm, first in zip(arms, firsts, strict=True):
        for name, asked in questions.items():
            max_sims = [
                find_best(query, kept, first.found(row)[:RERANK_CANDIDATES]).mean(axis=0)
                for row, query in enumerate(asked)
            ]
            for weight in WEIGHTS[arm.name]:
                ranking = _rerank(first, max_sims, weight, len(kept))
                found = measure(ranking, evalset.golds, searcher.answers, measures=[MAIN_MEASURE])
                scores[arm.name, name, weight] = found[MAIN_MEASURE][used]
                gain = mean_interval(scores[arm.name, name, weight] - scores[arm.name, "plain", weight])
                rows.append(
                    {
                        "stage": arm.name,
                        "questions by": name,
                        "weight": weight,
                        MAIN_MEASURE: round(float(scores[arm.name, name, weight].mean()), 4),
                        "gain": [round(100 * value, 3) for value in gain],
                    }
                )
    return {
        "documents": len(evalset.documents),
        "chunks": len(kept),
        "queries": int(used.sum()),
        "rows": rows,
    }


def _rerank(
    first: Ranking, max_sims: Sequence[Float[np.ndarray, " chunks"]], weight: float, chunk_count: int
) -> Ranking:
    scores = np.full((len(max_sims), chunk_count), -np.inf)
    for row, found in enumerate(max_sims):
        chunks = first.found(row)[:RERANK_CANDIDATES]
        mixed = fuse(first.scores[row, : len(chunks)], found, weight=weight)
        scores[row, chunks[best_first(mixed)]] = -np.arange(len(chunks))
    return rank(scores, np.isfinite(scores))


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args(argv)
    documents, _ = read_sources()
    steps = 2 if options.quick else options.steps
    kinds: dict[str, tuple[Loss, int]] = {
        **{f"listwise, seed {seed}": ("listwise", seed) for seed in range(1 if options.quick else 3)},
        **({} if options.quick else {"ranknet": ("ranknet", 0)}),
    }
    adapters = train(documents, kinds, steps=steps)
    print(f"{len(adapters)} adapters: {steps} steps", flush=True)
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        results[name] = {**measure_set(evalset, adapters, cache), "is_trained_on": name in TRAINED_ON}
        print(f"{name}: done", flush=True)
    model = "all-MiniLM-L6-v2, adapter minilm-context in windows, float32"
    write_set_report("query_adapter", options, model=model, results=results)


if __name__ == "__main__":
    main()
