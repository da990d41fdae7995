"""Where the retrieval sets are, and which of their documents are never trained on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).parent.parent


def sets_folder() -> Path:
    """Where the sets are: $RAG_EMBED_EVAL, or ../shared/eval beside the repository."""
    return Path(os.environ.get("RAG_EMBED_EVAL", ROOT / ".." / "shared" / "eval"))


def is_kept_back(doc_id: str) -> bool:
    """Whether a document is never trained on: every tenth, by a digest of its id."""
    return int(hashlib.sha256(doc_id.encode()).hexdigest()[:8], 16) % 10 == 0


def corpora_folder() -> Path:
    """Where `corpora.fetch` puts free texts: $RAG_EMBED_CORPORA, or corpora/.cache."""
    return Path(os.environ.get("RAG_EMBED_CORPORA", ROOT / "corpora" / ".cache"))
