"""Adaptation without labels: what `rag-embed train` advises, and what queries that it never saw say."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.evalsets import find_sets, load_set
from benchmarks.report import CACHE, describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.evaluation import Arm, EvalSet, VectorCache, evaluate
from rag_embed.evaluation.sets import keep_documents
from rag_embed.training.adaptation import adapt
from rag_embed.training.trainer import TrainingOptions

SETS = {"cuad_small": 30, "anthropic_codebase": 90}
MEASURE = "nDCG@10"


def measure_adaptation(
    evalset: EvalSet, folder: Path, *, model: ContextualEmbedding, options: TrainingOptions
) -> dict[str, object]:
    """Adapt to a set whose queries are hidden, then ask them on the documents that were held out."""
    adaptation = adapt(
        replace(evalset, queries={}, golds={}, gold_spans={}), folder, model=model, options=options
    )
    asked = keep_documents(evalset, adaptation.held_out)
    arms = [
        Arm("isolated", {"strategy": "isolated", "adapter": None}),
        Arm("before", {"strategy": "blend"}, with_title=evalset.has_titles),
        Arm("after", {"strategy": "blend", "adapter": str(folder)}, with_title=evalset.has_titles),
    ]
    found = evaluate(asked, arms, model=model, cache=VectorCache(CACHE / "vectors"))
    after = found.result("after")
    difference = found.difference(after, "before") if after else None
    if difference is None:
        raise SystemExit(f"no query of {evalset.name} has all its answers in the held-out documents")
    return {
        "documents": len(evalset.documents),
        "held_out": len(asked.documents),
        "proxy_gain": [round(value, 4) for value in adaptation.gain],
        "is_recommended": adaptation.is_recommended,
        "sentence": adaptation.sentence,
        "queries": found.counts["queries"],
        "means": {r.arm.name: round(found.mean(r, MEASURE), 4) for r in found.results},
        "gain": [round(value, 4) for value in (difference.mean, difference.low, difference.high)],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    steps = 2 if options.quick else options.steps
    training = TrainingOptions(steps=steps, check_every=max(1, steps // 4), learning_rate=5e-4)
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(SETS):
        evalset = load_set(name, documents=8 if options.quick else SETS[name])
        with tempfile.TemporaryDirectory() as folder:
            found = measure_adaptation(evalset, Path(folder) / name, model=model, options=training)
        results[name] = found
        print(f"{name}: {found['sentence']} Queries never seen: {found['gain']}", flush=True)
    write_set_report("adaptation", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
