"""What the consistency filter does to an adapter: of right pairs, of partly wrong ones, and filtered."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.evalsets import load_set
from benchmarks.report import CACHE, make_parser, write_report
from corpora.folders import sets_folder
from corpora.pages import read_pages
from rag_embed import ContextualEmbedding, load_encoder
from rag_embed.evaluation import Arm, VectorCache, evaluate
from rag_embed.evaluation.arms import ISOLATED
from rag_embed.evaluation.bootstrap import RESAMPLES
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.filters import drop_inconsistent
from rag_embed.training.trainer import TrainingOptions, train_adapter

WRONG_SHARE = 1 / 3
SETS = {"medquad_train": 100, "scifact": 400}
MEASURE = "nDCG@10"


def exchange_questions(
    documents: Sequence[TrainingDocument], share: float, *, seed: int = 0
) -> list[TrainingDocument]:
    """Give a share of the pairs the question of another pair."""
    generator = random.Random(seed)
    questions = [question for document in documents for question, _ in document.pairs]

    def ask(question: str) -> str:
        return generator.choice(questions) if generator.random() < share else question

    return [
        replace(doc, pairs=tuple((ask(question), chunk) for question, chunk in doc.pairs))
        for doc in documents
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(argv)
    folder = sets_folder() / "medquad_train"
    if not (folder / "corpus.jsonl").is_file():
        print("filter_ablation: nothing measured, the sets are not in $RAG_EMBED_EVAL nor in ../shared/eval")
        return
    count, steps = (12, 2) if options.quick else (options.documents, options.steps)
    right = read_pages(folder, source="medquad", anonymised=0.0, headed=0.7)[:count]
    wrong = exchange_questions(right, WRONG_SHARE)
    filtered = drop_inconsistent(wrong, load_encoder(dtype="float32"))
    variants = {"right pairs": right, "a third wrong": wrong, "filtered": filtered.documents}
    training = TrainingOptions(steps=steps, check_every=steps)
    results: dict[str, object] = {"kept": filtered.kept, "dropped": filtered.dropped}
    with tempfile.TemporaryDirectory() as place:
        arms = [Arm(ISOLATED, {"strategy": "isolated", "adapter": None})]
        for name, documents in variants.items():
            adapter = train_adapter(documents, Path(place) / name.replace(" ", "-"), options=training)
            arms.append(Arm(name, {"strategy": "late", "adapter": str(adapter)}, with_title=True))
            print(f"trained on {name}", flush=True)
        for name, documents_asked in SETS.items():
            evalset = load_set(name, documents=8 if options.quick else documents_asked)
            model, cache = ContextualEmbedding(dtype="float32"), VectorCache(CACHE / "vectors")
            found = evaluate(evalset, arms, model=model, cache=cache)
            rows = {}
            for result in found.results[1:]:
                difference = found.difference(result, "a third wrong")
                gain = [difference.mean, difference.low, difference.high] if difference else None
                rows[result.arm.name] = {
                    MEASURE: round(found.mean(result, MEASURE), 4),
                    "over a third wrong": gain and [round(value, 4) for value in gain],
                }
            results[name] = {"queries": found.counts["queries"], "rows": rows}
    write_report(
        "filter_ablation",
        options,
        model="all-MiniLM-L6-v2, adapters trained here, windows alone (strategy late), float32",
        data=f"trained on {count} documents of medquad_train; asked: {', '.join(SETS)}",
        n=sum(results[name]["queries"] for name in SETS),  # type: ignore[index,call-overload,misc]
        interval=f"95 % paired bootstrap over queries, {RESAMPLES} resamples",
        results=results,
    )


if __name__ == "__main__":
    main()
