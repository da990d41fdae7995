"""The commands that index: `index` and `demo`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Optional

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import (
    check_alpha,
    make_model_options,
    make_place,
    read_sources,
)
from rag_embed.cli.records import filled_as_json, passages_as_json
from rag_embed.indexes import DEFAULT_CHUNK_SIZE


@opt.spread
def index(
    *,
    folders: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="Folders to read; NAME=FOLDER gives one a name."),
    ] = None,
    pydoc: Annotated[bool, typer.Option("--pydoc", help="Index Python's own language reference.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Delete the collection first.")] = False,
    place: opt.PlaceChoice,
    embedding: opt.ModelChoice,
    legs: opt.LegChoice,
    chunk_size: opt.ChunkSize = DEFAULT_CHUNK_SIZE,
    chunk_overlap: opt.ChunkOverlap = 0,
    json: opt.Json = False,
) -> None:
    """Bring a collection up to date with folders: embeds what is new or changed, forgets what is gone."""
    if not folders and not pydoc:
        raise typer.BadParameter("name a folder, or --pydoc")
    if chunk_overlap >= chunk_size:
        raise typer.BadParameter(
            f"--chunk-overlap {chunk_overlap} must be less than --chunk-size {chunk_size}"
        )
    check_alpha(embedding)
    output = Output(as_json=json)
    readings = read_sources(folders or [], pydoc, place.store, output)
    from rag_embed.indexes.claiming import check_claims
    from rag_embed.indexes.filling import clear_for_rebuild, fill_all, make_corpus

    if rebuild:
        clear_for_rebuild(make_place(place), make_model_options(embedding), readings)
    with closing(make_place(place).open_for_writing(words=legs.words, tokens=legs.tokens)) as chunk_store:
        check_claims(chunk_store, readings)
        embed_model = make_model_options(embedding).make_for(chunk_store)
        corpus = make_corpus(chunk_store, embed_model, chunk_size=chunk_size, chunk_overlap=chunk_overlap)
        results = []
        for filled in fill_all(corpus, chunk_store, readings, output.watch):
            output.filled(filled)
            results.append(filled_as_json(filled))
        if json:
            fingerprint, count = embed_model.fingerprint(), chunk_store.count()
            made = {"collection": place.collection, "fingerprint": fingerprint, "count": count}
            output.json({**made, "sources": results})
    if output.is_partly:
        raise typer.Exit(opt.ExitCode.PARTLY)


def demo(
    *,
    docs: Annotated[Optional[Path], typer.Option("--docs", help="Your own folder.")] = None,  # noqa: UP045
    query: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--query", help="Your own question. Repeatable."),
    ] = None,
    store: opt.Store = Path(".demo"),
    top_k: opt.TopK = 3,
    chunk_size: opt.ChunkSize = DEFAULT_CHUNK_SIZE,
    json: opt.Json = False,
) -> None:
    """Show side by side what isolated chunks, chunks in context, and these with words find."""
    output = Output(as_json=json)
    (reading,) = read_sources([docs] if docs else [], docs is None, store, output)
    from rag_embed.cli.comparing import PYDOC_QUESTIONS, Bench, derive_questions
    from rag_embed.indexes.filling import fill

    questions = query or (list(PYDOC_QUESTIONS) if docs is None else derive_questions(reading.documents))
    total = sum(len(document.text) for document in reading.documents)
    output.note(f"{reading.source}: {len(reading.documents)} documents, {total:,} characters")
    comparisons = []
    embedded = {}
    with Bench(store, reading.source, chunk_size=chunk_size, top_k=top_k) as bench:
        for name in bench.names:
            filled = fill(bench.corpus(name), reading, output.watch)
            embedded[name] = filled.report.embedded
            output.filled(filled, name=name)
        for question in questions:
            comparison = bench.compare(question)
            comparisons.append(comparison)
            if not json:
                output.comparison(comparison.query, comparison.results)
    if json:
        results = [
            {"query": c.query, **{name: passages_as_json(found) for name, found in c.results.items()}}
            for c in comparisons
        ]
        output.json({"source": reading.source, "embedded": embedded, "questions": results})
    if output.is_partly:
        raise typer.Exit(opt.ExitCode.PARTLY)
