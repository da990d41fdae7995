"""Options that several commands share, and the exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, IntEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

from typer import Argument, BadParameter, Option

from rag_embed.errors import InputError


class ExitCode(IntEnum):
    """What the shell is told."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    EMPTY = 3
    PARTLY = 4
    INTERRUPTED = 130
    TERMINATED = 143


class Strategy(str, Enum):
    """How a chunk is embedded."""

    ISOLATED = "isolated"
    LATE = "late"
    BLEND = "blend"
    NATIVE = "native"


class ServerEngine(str, Enum):
    """What runs on a server of a model."""

    VLLM = "vllm"
    TEI = "tei"


class Rerank(str, Enum):
    """How candidates are reranked."""

    AUTO = "auto"
    NONE = "none"
    LATE_INTERACTION = "late-interaction"
    LISTWISE = "listwise"


def check_unicode(value: Any) -> Any:
    """Refuse arguments that are no text, before anything is opened."""
    from rag_embed.surrogates import check_unicode

    try:
        for text in value if isinstance(value, list) else [value or ""]:
            check_unicode(str(text), "it")
    except InputError as error:
        raise BadParameter(str(error)) from error
    return value


def check_writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before the work whose result it is to hold."""
    if path is None:
        return None
    folder = path.expanduser().absolute().parent
    if not folder.is_dir():
        raise BadParameter(
            f"{path} cannot be written, {folder} is not a folder; make it, or name another file"
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise BadParameter(f"{path} cannot be written; expected a file in a folder that lets you")
    return path


_PLACE = "Where the index is"
_MODEL = "Model"

Store = Annotated[
    Path,
    Option("--store", envvar="RAG_EMBED_STORE", help="Folder of an embedded Qdrant.", rich_help_panel=_PLACE),
]
Url = Annotated[
    Optional[str],  # noqa: UP045  # typer reads it on Python 3.10
    Option(
        "--url", callback=check_unicode, help="A Qdrant server, instead of a folder.", rich_help_panel=_PLACE
    ),
]
ApiKey = Annotated[
    Optional[str],  # noqa: UP045
    Option(
        "--api-key",
        envvar="QDRANT_API_KEY",
        callback=check_unicode,
        show_envvar=True,
        help="Key of the server.",
        rich_help_panel=_PLACE,
    ),
]
Collection = Annotated[
    str, Option("--collection", callback=check_unicode, help="Name of the index.", rich_help_panel=_PLACE)
]
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
AdapterOption = Annotated[
    Optional[str],  # noqa: UP045
    Option(
        "--adapter",
        help='A shipped name, a folder by `rag-embed train`, or "none". Default: as the index was made.',
        rich_help_panel=_MODEL,
    ),
]
ServerOption = Annotated[
    Optional[str],  # noqa: UP045
    Option("--server", callback=check_unicode, help="A server of the model.", rich_help_panel=_MODEL),
]
ContextServer = Annotated[
    Optional[str],  # noqa: UP045
    Option("--context-server", help="A server of model and adapter merged.", rich_help_panel=_MODEL),
]
EngineOption = Annotated[
    Optional[ServerEngine],  # noqa: UP045
    Option("--engine", help="What runs on these servers.", rich_help_panel=_MODEL),
]
ChunkSize = Annotated[
    int, Option("--chunk-size", min=8, help="Most tokens of a chunk.", rich_help_panel=_MODEL)
]
ChunkOverlap = Annotated[
    int, Option("--chunk-overlap", min=0, help="Tokens that neighbours share.", rich_help_panel=_MODEL)
]
TopK = Annotated[int, Option("--top-k", "-k", min=1, help="Most passages.")]
Candidates = Annotated[int, Option("--candidates", min=1, help="How many the reranker chooses from.")]
RerankOption = Annotated[
    Rerank,
    Option(
        "--rerank", help="How candidates are reranked; auto: by what the index keeps for it, or not at all."
    ),
]
Words = Annotated[
    Optional[bool],  # noqa: UP045
    Option(
        "--words/--no-words",
        help="Keep words too, and find by meaning and words together. Default: yes for a new index.",
        rich_help_panel=_MODEL,
    ),
]
Tokens = Annotated[
    Optional[bool],  # noqa: UP045
    Option(
        "--tokens/--no-tokens",
        help="Keep token vectors too, for reranking: 5 KB more for each 100 tokens. Default: no.",
        rich_help_panel=_MODEL,
    ),
]
Filter = Annotated[
    Optional[list[str]],  # noqa: UP045
    Option(
        "--filter",
        metavar="KEY=VALUE",
        callback=check_unicode,
        help="Metadata that passages must have. Repeatable.",
    ),
]
Html = Annotated[
    Optional[Path],  # noqa: UP045
    Option(callback=check_writable, help="Write the report as an HTML page."),
]
Host = Annotated[
    str, Option("--host", help="Address to serve at; another than this machine's own needs a token.")
]
Port = Annotated[int, Option("--port", min=1, max=65535, help="Port to serve at.")]
Token = Annotated[
    Optional[str],  # noqa: UP045
    Option("--token", envvar="RAG_EMBED_TOKEN", show_envvar=True, help="What clients have to say."),
]
History = Annotated[
    Optional[Path],  # noqa: UP045
    Option(
        "--history", help="With --web: folder of the conversations. Default: beside the store, with -chat."
    ),
]
Llms = Annotated[
    list[str] | None,
    Option(
        "--llm",
        metavar="MODULE:CLASS",
        help="An LLM of LlamaIndex. Without one, quotes answer. Repeatable with --web, to choose from.",
    ),
]
LlmArguments = Annotated[
    list[str] | None,
    Option("--llm-arg", metavar="KEY=VALUE", help="Argument of all LLMs. Repeatable."),
]
Json = Annotated[bool, Option("--json", help="JSON on standard output, and nothing else there.")]
Query = Annotated[str, Argument(callback=check_unicode, help="The question.", show_default=False)]


@dataclass(frozen=True, slots=True)
class PlaceChoice:
    """Where an index is."""

    store: Store = Path(".rag-embed")
    url: Url = None
    api_key: ApiKey = None
    collection: Collection = "documents"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model, where it is not the one that an index was made with."""

    model: Model = None
    strategy: StrategyOption = None
    alpha: Alpha = None
    adapter: AdapterOption = None
    server: ServerOption = None
    context_server: ContextServer = None
    engine: EngineOption = None


@dataclass(frozen=True, slots=True)
class LegChoice:
    """What a new index keeps beside the vectors."""

    words: Words = None
    tokens: Tokens = None


@dataclass(frozen=True, slots=True)
class SearchChoice:
    """How passages are found."""

    candidates: Candidates = 50
    rerank: RerankOption = Rerank.AUTO
    filters: Filter = None


@dataclass(frozen=True, slots=True)
class ListenChoice:
    """Where to serve, and whom."""

    host: Host = "127.0.0.1"
    port: Port = 8000
    token: Token = None

    @property
    def address(self) -> str:
        """The server as a URL, without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its parameters that are dataclasses; typer knows none."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        if group := groups.get(parameter.name):
            kinds = get_type_hints(group, include_extras=True)
            parameters += [
                parameter.replace(name=field.name, default=field.default, annotation=kinds[field.name])
                for field in fields(group)
            ]
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
