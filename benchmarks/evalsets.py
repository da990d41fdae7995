"""The retrieval sets of the benchmarks: where they are, how much of each, and what must not be used of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.report import ROOT
from rag_embed.evaluation import EvalSet, read_set, sample_set

DEFAULT_DOCUMENTS = {
    "cuad_small": 20,
    "covidqa": 15,
    "anthropic_codebase": 60,
    "chroma_chunking": 3,
    "qmsum_train": 5,
    "medquad_train": 150,
    "scifact": 350,
}
"""Sets, and how many of their documents; chosen so that all take a quarter of an hour on two cores."""
_TITLES_FROM_GOLDS = {"anthropic_codebase"}
_WITHIN_DOCUMENT = {"qmsum_train"}


def sets_folder() -> Path:
    """Where the sets are: $RAG_EMBED_EVAL, or ../shared/eval beside the repository."""
    return Path(os.environ.get("RAG_EMBED_EVAL", ROOT / ".." / "shared" / "eval"))


def load_set(name: str, *, documents: int | None, seed: int = 0) -> EvalSet:
    """Read a set, or a random sample of its documents as `sample_set` draws it."""
    evalset = replace(
        read_set(sets_folder() / name),
        has_titles=name not in _TITLES_FROM_GOLDS | _WITHIN_DOCUMENT,
        is_within_document=name in _WITHIN_DOCUMENT,
    )
    return sample_set(evalset, documents=documents, seed=seed)
