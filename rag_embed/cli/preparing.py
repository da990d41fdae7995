"""What several commands do: read folders, open an index, make its model."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.errors import InputError

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import MetadataFilters

    from rag_embed.chat.searching import Searcher
    from rag_embed.files.reading import Reading
    from rag_embed.indexes.opening import ModelOptions, Place
    from rag_embed.llamaindex import ContextualEmbedding
    from rag_embed.qdrant import QdrantChunkStore
    from rag_embed.qdrant.schema import CollectionSchema


def make_place(choice: opt.PlaceChoice) -> Place:
    """Say where an index is."""
    from rag_embed.indexes.opening import Place

    return Place(choice.collection, choice.store, choice.url, choice.api_key)


def make_model_options(choice: opt.ModelChoice) -> ModelOptions:
    """Collect what was said about the model."""
    from rag_embed.indexes.opening import ModelOptions

    if (choice.server is None) != (choice.engine is None):
        raise typer.BadParameter("--server and --engine belong together: the address, and what runs there")
    if choice.context_server is not None and choice.server is None:
        raise typer.BadParameter("--context-server needs --server too, which serves the questions")
    return ModelOptions(
        choice.model,
        choice.strategy.value if choice.strategy else None,
        choice.alpha,
        choice.adapter,
        server=choice.server,
        context_server=choice.context_server,
        engine=choice.engine.value if choice.engine else "torch",
    )


def check_alpha(choice: opt.ModelChoice) -> None:
    """Refuse a weight that would have no effect."""
    if choice.alpha is not None and choice.strategy not in {None, opt.Strategy.BLEND}:
        raise typer.BadParameter(
            f"--alpha is the share of context in a blend; it means nothing to {choice.strategy.value}"
        )


def read_sources(folders: list[Path], pydoc: bool, store: Path, output: Output) -> list[Reading]:
    """Read folders, and say which files could not be read, and what to know of the others.

    Without any document the command ends.
    """
    from rag_embed.files.reading import read_folder, read_pydoc
    from rag_embed.indexes.claiming import check_distinct

    readings = []
    for argument in folders:
        name, folder = _split_name(argument)
        with output.reserved():
            readings.append(read_folder(folder, name=name, leave_out=[store]))
    if pydoc:
        readings.append(read_pydoc())
    try:
        check_distinct(readings)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    for reading in readings:
        output.reading(reading)
    if not any(reading.documents for reading in readings):
        output.error("there are no documents in these folders; nothing was done")
        raise typer.Exit(opt.ExitCode.FAILED if output.is_partly else opt.ExitCode.EMPTY)
    return readings


def _split_name(argument: Path) -> tuple[str | None, Path]:
    """Tell "name=folder" from a folder."""
    if argument.is_dir():
        return None, argument
    name, separator, folder = str(argument).partition("=")
    if not separator or not Path(folder).is_dir():
        raise typer.BadParameter(f"{str(argument)!r} is not a folder; expected FOLDER or NAME=FOLDER")
    if not name or "/" in name or not name.isprintable():
        raise typer.BadParameter(f"{name!r} cannot name a folder; expected a word, as in docs={folder}")
    return name, Path(folder)


@contextmanager
def open_existing(
    place: Place, output: Output, **store_options: Any
) -> Iterator[tuple[QdrantChunkStore, CollectionSchema]]:
    """Open a collection that must be there; without it the command ends."""
    found = place.open_existing(**store_options)
    if found is None:
        output.error(f"there is no {place}; make it with `rag-embed index FOLDER`")
        raise typer.Exit(opt.ExitCode.EMPTY)
    with closing(found[0]):
        yield found


def read_filters(pairs: list[str] | None) -> MetadataFilters | None:
    """Read what --filter says."""
    from rag_embed.chat.filters import parse_filters

    try:
        return parse_filters(pairs or [])
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def open_searcher(
    index: opt.PlaceChoice,
    embedding: opt.ModelChoice,
    finding: opt.SearchChoice,
    *,
    top_k: int,
    output: Output,
) -> Iterator[Searcher]:
    """Open a collection that must hold something, with the model it was made with."""
    from rag_embed.chat.searching import Searcher

    conditions = read_filters(finding.filters)
    place = make_place(index)
    with open_existing(place, output, return_vectors=True) as (chunk_store, schema):
        if not chunk_store.count():
            output.error(f"{place} is empty; fill it with `rag-embed index FOLDER`")
            raise typer.Exit(opt.ExitCode.EMPTY)
        yield Searcher(
            chunk_store,
            recall_model(place, embedding, chunk_store, schema, output),
            filters=conditions,
            top_k=top_k,
            candidates=finding.candidates,
            rerank=finding.rerank.value,
        )


def recall_model(
    place: Place,
    choice: opt.ModelChoice,
    store: QdrantChunkStore,
    schema: CollectionSchema,
    output: Output,
) -> ContextualEmbedding:
    """Make the model that asks an index, and say so if its queries go through a map."""
    from rag_embed.indexes.migrating import recall_for_asking
    from rag_embed.llamaindex.mapped_embedding import MappedEmbedding

    model = recall_for_asking(place, make_model_options(choice), store, schema)
    if isinstance(model, MappedEmbedding):
        output.note(
            f"{place} is being migrated: questions are embedded by {model.model} and asked of the old "
            f"vectors through a map learned from {model.query_map.pairs:,} chunks, without reranking",
            style="yellow",
        )
        if not model.query_map.is_determined:
            needed = min(len(model.query_map.new_mean), len(model.query_map.old_mean))
            output.note(
                f"fewer chunks than the map has dimensions ({needed}) do not determine it, and much is not "
                "found; let `rag-embed migrate` embed more, or leave out --model",
                style="yellow",
            )
    return model


def read_questions(output: Output) -> Iterator[str]:
    """Lines of standard input, asked for where a person types them."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is no UTF-8 fails alone
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    output.note("Ask a question; /reset forgets the conversation, /quit or Ctrl-D ends it.")
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
