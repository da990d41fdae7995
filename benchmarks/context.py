"""Does the default pay? Against isolated chunks and title + chunk, on every set, nothing chosen per set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evalsets import ANONYMISED, find_sets, load_set
from benchmarks.report import CACHE, describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import Arm, Evaluation, VectorCache, evaluate
from rag_embed.evaluation.arms import ISOLATED, TITLED

SETS = {
    "cuad_small": 30,
    ANONYMISED: 200,
    "anthropic_codebase": None,
    "covidqa": 20,
    "chroma_chunking": 3,
    "scifact": 400,
    "qmsum_train": 5,
    "medquad_train": 100,
}
"""Sets, and how many of their documents; None is all. Chosen to take a quarter of an hour on two cores."""
QUICK_SETS = ("anthropic_codebase",)
MEASURES = ("nDCG@10", "R@10")


def make_arms(adapters: Sequence[str], *, has_titles: bool) -> list[Arm]:
    """Baselines, the untrained blend, the default, and the default's two halves and rivals."""
    untrained: dict[str, Any] = {"adapter": None}
    arms = [Arm(ISOLATED, {**untrained, "strategy": "isolated"})]
    if has_titles:
        arms.append(Arm(TITLED, {**untrained, "strategy": "isolated"}, with_title=True))
    arms += [
        Arm("late, untrained", {**untrained, "strategy": "late"}, with_title=has_titles),
        Arm("blend, untrained", {**untrained, "strategy": "blend"}, with_title=has_titles),
        Arm("adapter alone", {"strategy": "late"}, with_title=has_titles),
        Arm("default", {"strategy": "blend"}, with_title=has_titles, is_default=True),
    ]
    arms += [
        Arm(
            f"another seed: {Path(folder).name}",
            {"strategy": "blend", "adapter": folder},
            with_title=has_titles,
        )
        for folder in adapters
    ]
    return arms


def summarise(evaluation: Evaluation, baselines: Sequence[str] = (ISOLATED, TITLED)) -> dict[str, object]:
    """Means of all arms, and their paired differences to the baselines."""
    rows = []
    for result in evaluation.results:
        row: dict[str, object] = {"arm": result.arm.name}
        for measure in MEASURES:
            row[measure] = round(evaluation.mean(result, measure), 4)
            for baseline in baselines:
                if found := evaluation.difference(result, baseline, measure=measure):
                    interval = [round(value, 4) for value in (found.mean, found.low, found.high)]
                    row[f"{measure} over {baseline}"] = interval
        rows.append(row)
    return {**evaluation.counts, "slice": evaluation.main_slice, "rows": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    parser.add_argument("--adapters", nargs="*", default=[], help="folders of other seeds' adapters")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        arms = make_arms(options.adapters, has_titles=evalset.has_titles)
        results[name] = summarise(evaluate(evalset, arms, model=model, cache=cache))
        print(f"{name}: {len(arms)} arms, {len(evalset.queries)} queries", flush=True)
    write_set_report("context", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
