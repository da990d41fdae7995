"""Filters of training pairs: how many right pairs they keep, and how many pairs that were made wrong."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.report import make_parser, write_report
from corpora.code import read_code_files
from corpora.folders import sets_folder
from corpora.pages import read_meetings, read_pages
from rag_embed import Encoder, load_encoder
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.filters import Filtered, drop_foreign, drop_inconsistent

DOCUMENTS = {"medquad": 80, "medquad, anonymised": 80, "scifact": 120, "qmsum": 6, "stdlib": 25}


def read_source(name: str, count: int) -> list[TrainingDocument]:
    """The first documents of a source of the shipped adapter's recipe."""
    folder = sets_folder()
    if name.startswith("medquad"):
        anonymised = 1.0 if "anonymised" in name else 0.0
        pages = read_pages(folder / "medquad_train", source=name, anonymised=anonymised, headed=0.0)
        return pages[:count]
    if name == "scifact":
        return read_pages(folder / "scifact", source=name, anonymised=0.0, headed=0.0)[:count]
    if name == "qmsum":
        return read_meetings(folder / "qmsum_train", source=name)[:count]
    return read_code_files(Path(sysconfig.get_paths()["stdlib"]), source=name, limit=count)


def shuffle_questions(documents: Sequence[TrainingDocument]) -> list[TrainingDocument]:
    """Give every chunk the question of another one, drawn over all documents."""
    questions = [question for document in documents for question, _ in document.pairs]
    shifted = iter(np.roll(np.array(questions, dtype=object), len(questions) // 2).tolist())
    return [
        replace(document, pairs=tuple((next(shifted), chunk) for _, chunk in document.pairs))
        for document in documents
    ]


def measure_filters(documents: Sequence[TrainingDocument], encoder: Encoder) -> dict[str, float]:
    """Shares of pairs that each filter keeps."""
    wrong = shuffle_questions(documents)
    return {
        "questions": sum(len(document.pairs) for document in documents),
        "right, consistency": _share(drop_inconsistent(documents, encoder)),
        "wrong, consistency": _share(drop_inconsistent(wrong, encoder)),
        "right, language": _share(drop_foreign(documents)),
    }


def _share(found: Filtered) -> float:
    return round(found.kept / (found.kept + found.dropped), 4)


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser(__doc__).parse_args(argv)
    if not (sets_folder() / "medquad_train" / "corpus.jsonl").is_file():
        print("filters: nothing measured, the sets are not in $RAG_EMBED_EVAL nor in ../shared/eval")
        return
    encoder = load_encoder(dtype="float32")
    results = {
        name: measure_filters(read_source(name, 5 if options.quick else count), encoder)
        for name, count in DOCUMENTS.items()
    }
    write_report(
        "filters",
        options,
        model=f"{encoder.profile.name}, sha256 {encoder.profile.weights_sha256[:12]}, float32",
        data=", ".join(results),
        n=int(sum(entry["questions"] for entry in results.values())),
        interval="none",
        results=results,
    )


if __name__ == "__main__":
    main()
