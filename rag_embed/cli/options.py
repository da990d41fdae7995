"""Options that several commands share, and the exit codes."""

from __future__ import annotations

from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Optional

from typer import Argument, Option


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    EMPTY = 3


class Strategy(str, Enum):
    """How a chunk is embedded."""

    ISOLATED = "isolated"
    LATE = "late"
    BLEND = "blend"


class Rerank(str, Enum):
    """How candidates are reranked."""

    NONE = "none"
    FEEDBACK = "feedback"
    LISTWISE = "listwise"


_PLACE = "Where the index is"
_MODEL = "Model"

Store = Annotated[
    Path,
    Option("--store", envvar="RAG_EMBED_STORE", help="Folder of an embedded Qdrant.", rich_help_panel=_PLACE),
]
Url = Annotated[
    Optional[str],  # noqa: UP045  # typer reads it on Python 3.10
    Option("--url", help="A Qdrant server, instead of a folder.", rich_help_panel=_PLACE),
]
ApiKey = Annotated[
    Optional[str],  # noqa: UP045
    Option(
        "--api-key",
        envvar="QDRANT_API_KEY",
        show_envvar=True,
        help="Key of the server.",
        rich_help_panel=_PLACE,
    ),
]
Collection = Annotated[str, Option("--collection", help="Name of the index.", rich_help_panel=_PLACE)]
Model = Annotated[
    Optional[str],  # noqa: UP045
    Option(
        "--model",
        help="Embedded model's name, a folder, or a hub id. Default: what the index was made with.",
        rich_help_panel=_MODEL,
    ),
]
StrategyOption = Annotated[
    Optional[Strategy],  # noqa: UP045
    Option("--strategy", help="Default: what the index was made with.", rich_help_panel=_MODEL),
]
Alpha = Annotated[
    Optional[float],  # noqa: UP045
    Option("--alpha", min=0, max=1, help="Share of context in a blend.", rich_help_panel=_MODEL),
]
ChunkSize = Annotated[
    int, Option("--chunk-size", min=8, help="Most tokens of a chunk.", rich_help_panel=_MODEL)
]
ChunkOverlap = Annotated[
    int, Option("--chunk-overlap", min=0, help="Tokens that neighbours share.", rich_help_panel=_MODEL)
]
TopK = Annotated[int, Option("--top-k", "-k", min=1, help="Most passages.")]
Candidates = Annotated[int, Option("--candidates", min=1, help="How many the reranker chooses from.")]
RerankOption = Annotated[Rerank, Option("--rerank", help="How candidates are reranked.")]
Filter = Annotated[
    Optional[list[str]],  # noqa: UP045
    Option("--filter", metavar="KEY=VALUE", help="Metadata that passages must have. Repeatable."),
]
Json = Annotated[bool, Option("--json", help="JSON on standard output, and nothing else there.")]
Query = Annotated[str, Argument(help="The question.", show_default=False)]

DEFAULT_STORE = Path(".rag-embed")
DEFAULT_COLLECTION = "documents"
DEFAULT_CHUNK_SIZE = 256
