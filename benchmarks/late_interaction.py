"""What may be left out of late interaction? Kept states and weights of query tokens, over whole sets.

Everything is computed here, with the store's ranking and none of its storage; `benchmarks.token_forms` has
the store's own bits on samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from benchmarks.evalsets import find_sets, load_set
from benchmarks.hybrid import QUICK_SETS, SETS
from benchmarks.report import CACHE, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import Arm, EvalDocument, VectorCache
from rag_embed.evaluation.bootstrap import mean_interval
from rag_embed.evaluation.metrics import MAIN_MEASURE, measure
from rag_embed.evaluation.ranking import RERANK_CANDIDATES, Ranking, rank
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.vectors import Vectors
from rag_embed.fusion import best_first, fuse
from rag_embed.late_interaction import TokenVectors
from rag_embed.max_sim import TokenForm, to_units
from rag_embed.spans import find_tokens

Kept = list[TokenVectors]
Weigh = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From the ids of a query's tokens to how much each counts."""


class Words:
    """Which token stands behind each token vector of the chunks, and how rare it is.

    Args:
        model: Whose tokens.
        documents: With their chunks.
    """

    def __init__(self, model: ContextualEmbedding, documents: Sequence[EvalDocument]) -> None:
        self._encoder = model.encoder
        self.ids: list[NDArray[np.int64]] = []
        for document in documents:
            tokens = self._encoder.tokenize(document.text)
            spans = find_tokens(document.text, tokens.starts, tokens.ends, document.spans)
            self.ids += [tokens.ids[span.start : span.end] for span in spans]
        counts = np.zeros(1 + max(int(ids.max(initial=0)) for ids in self.ids))
        for ids in self.ids:
            counts[np.unique(ids)] += 1
        self._counts, self._total = counts, len(self.ids)
        marks = [self._encoder.tokenize(mark).ids for mark in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"]
        self._marks = np.unique(np.concatenate(marks))

    def is_mark(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens are punctuation."""
        return np.isin(ids, self._marks)

    def idf(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """How rare tokens are among the chunks, as BM25 has it."""
        counts = np.array([self._counts[each] if each < len(self._counts) else 0 for each in ids])
        return np.asarray(np.log(1 + (self._total - counts + 0.5) / (counts + 0.5)))

    def without_marks(self, kept: Kept) -> Kept:
        """Leave out the vectors of punctuation, but for a chunk that has no others."""
        masks = [~self.is_mark(ids) for ids in self.ids]
        return [
            each[mask] if len(mask) == len(each) and mask.any() else each
            for each, mask in zip(kept, masks, strict=True)
        ]


def pool(kept: Kept, neighbours: int) -> Kept:
    """Average neighbours, as a store is handed them."""
    form = TokenForm("float16", neighbours)
    return [to_units(form.keep(torch.from_numpy(each)).numpy()) for each in kept]


def signs(kept: Kept) -> Kept:
    """One bit a number."""
    return [np.where(each >= 0, 1, -1).astype(np.float32) / np.sqrt(each.shape[1]) for each in kept]


def find_best(query: TokenVectors, kept: Kept, chunks: Sequence[int]) -> Float[np.ndarray, "tokens chunks"]:
    """For each token of the query the most similar vector of each chunk."""
    parts = [kept[chunk] for chunk in chunks]
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    return np.asarray(np.maximum.reduceat(query @ np.concatenate(parts).T, starts, axis=1))


def measure_set(name: str, documents: int | None, cache: VectorCache) -> dict[str, object]:
    """Difference to the first stage alone, of every form and weighting, behind both first stages."""
    evalset = load_set(name, documents=documents)
    model = ContextualEmbedding(strategy="late", token_neighbours=1, dtype="float32")
    searcher = Searcher(evalset, model, Vectors(evalset.documents, cache=cache))
    arms = [
        Arm(stage, {"strategy": "late"}, method=method, with_title=evalset.has_titles)
        for stage, method in (("hybrid", "hybrid"), ("dense", "vectors"))
    ]
    words = Words(model, evalset.documents)
    firsts = [searcher.rank(arm, evalset.main_slice) for arm in arms]  # one pass makes token vectors as well
    every = [to_units(each) for each in searcher.chunk_tokens(arms[0])]
    forms = {
        "every token": every,
        **{f"{count} neighbours averaged": pool(every, count) for count in (2, 4, 8)},
        "without punctuation": (bare := words.without_marks(every)),
        "without punctuation, 4 averaged": pool(bare, 4),
        "signs": signs(every),
    }
    weighings: dict[str, Weigh] = {
        "alike": lambda ids: np.ones(len(ids)),
        "by idf": words.idf,
        "without punctuation": lambda ids: np.where(words.is_mark(ids), 1e-9, 1.0),
    }
    asked = searcher.query_tokens(arms[0])
    asked_ids = [model.encoder.tokenize(query).ids for query in searcher.queries]
    used = searcher.sliced[evalset.main_slice]

    def score(ranking: Ranking) -> Float[np.ndarray, " queries"]:
        found = measure(ranking, evalset.golds, searcher.answers, measures=[MAIN_MEASURE])
        return found[MAIN_MEASURE][used]

    rows = []
    for arm, first in zip(arms, firsts, strict=True):
        alone = score(first)
        rows.append({"stage": arm.name, "form": "none", "query": "", MAIN_MEASURE: float(alone.mean())})
        for form, kept in forms.items():
            candidates = [first.found(row)[:RERANK_CANDIDATES] for row in range(len(asked))]
            best = [
                find_best(query, kept, chunks) if query is not None and len(chunks) else None
                for query, chunks in zip(asked, candidates, strict=True)
            ]
            for query, weigh in weighings.items():
                if query != "alike" and form not in {"every token", "4 neighbours averaged"}:
                    continue
                fused = np.full((len(asked), len(evalset.chunk_ids)), -np.inf)
                for row, found in enumerate(best):
                    chunks = candidates[row]
                    if found is None:
                        fused[row, chunks] = first.scores[row, : len(chunks)]
                        continue
                    weights = weigh(asked_ids[row][: len(found)])
                    scores = weights @ found / weights.sum()
                    mixed = fuse(first.scores[row, : len(chunks)], scores, weight=arm.rerank_weight)
                    fused[row, chunks[best_first(mixed)]] = -np.arange(len(chunks))
                ranking = rank(fused, np.isfinite(fused))
                difference = mean_interval(score(ranking) - alone)
                rows.append(
                    {
                        "stage": arm.name,
                        "form": form,
                        "query": query,
                        MAIN_MEASURE: float(alone.mean() + difference[0]),
                        "gain": [round(100 * value, 3) for value in difference],
                    }
                )
    sizes = {form: round(float(np.mean([len(each) for each in kept])), 1) for form, kept in forms.items()}
    counts = {"documents": len(evalset.documents), "chunks": len(every), "queries": int(used.sum())}
    return {**counts, "vectors per chunk": sizes, "rows": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    options = parser.parse_args(argv)
    cache = VectorCache(CACHE / "vectors")
    results = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        results[name] = measure_set(name, 2 if options.quick else SETS[name], cache)
        print(f"{name}: done", flush=True)
    model = "all-MiniLM-L6-v2, adapter minilm-context, float32"
    write_set_report("late_interaction", options, model=model, results=results)


if __name__ == "__main__":
    main()
