"""The commands that index: `index` and `demo`."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.failing import describe
from rag_embed.cli.output import Output, describe_sync, passages_as_json
from rag_embed.cli.preparing import (
    check_alpha,
    make_model_options,
    make_place,
    model_for,
    open_for_writing,
    read_sources,
)
from rag_embed.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_embed.cli.reading import Reading
    from rag_embed.llamaindex.corpus import Corpus, SyncReport
    from rag_embed.qdrant import QdrantChunkStore


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
    chunk_size: opt.ChunkSize = opt.DEFAULT_CHUNK_SIZE,
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
    from llama_index.core.node_parser import SentenceSplitter

    from rag_embed.cli.claiming import check_claims, claim
    from rag_embed.llamaindex import LateChunkingNodeParser
    from rag_embed.llamaindex.corpus import Corpus

    if rebuild:
        # A model that cannot be loaded must not cost the index that is there.
        _ = make_model_options(embedding).make().context_encoder
        with closing(make_place(place).open()) as old:
            _check_rebuild(old, readings)
            old.clear()
    with closing(open_for_writing(make_place(place), legs)) as chunk_store:
        check_claims(chunk_store, readings)
        embed_model = model_for(chunk_store, make_model_options(embedding))
        parser = LateChunkingNodeParser(
            node_parser=SentenceSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap)
        )
        corpus = Corpus(chunk_store, embed_model=embed_model, node_parser=parser)
        results = []
        for reading in readings:
            claim(chunk_store, reading)
            report, seconds = sync_reading(corpus, reading, f"Indexing {reading.source}", output)
            claim(chunk_store, reading)
            output.note(describe_sync(reading.source, report, seconds), style="green")
            results.append(
                {
                    "source": reading.source,
                    "added": list(report.added),
                    "changed": list(report.changed),
                    "removed": list(report.removed),
                    "kept": list(report.kept),
                    "unchanged": len(report.unchanged),
                    "failed": reading.failed,
                    "skipped": reading.skipped,
                    "empty": list(reading.empty),
                    "chunks": report.chunks,
                    "embedded": report.embedded,
                    "seconds": round(seconds, 3),
                }
            )
        if json:
            output.json(
                {
                    "collection": place.collection,
                    "fingerprint": embed_model.fingerprint(),
                    "count": chunk_store.count(),
                    "sources": results,
                }
            )
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
    chunk_size: opt.ChunkSize = opt.DEFAULT_CHUNK_SIZE,
    json: opt.Json = False,
) -> None:
    """Show side by side what isolated chunks, chunks in context, and these with words find."""
    output = Output(as_json=json)
    (reading,) = read_sources([docs] if docs else [], docs is None, store, output)
    from rag_embed.cli.comparing import PYDOC_QUESTIONS, Bench, derive_questions

    questions = query or (list(PYDOC_QUESTIONS) if docs is None else derive_questions(reading.documents))
    total = sum(len(document.text) for document in reading.documents)
    output.note(f"{reading.source}: {len(reading.documents)} documents, {total:,} characters")
    comparisons = []
    embedded = {}
    with Bench(store, reading.source, chunk_size=chunk_size, top_k=top_k) as bench:
        for name in bench.names:
            report, seconds = sync_reading(bench.corpus(name), reading, f"Indexing {name}", output)
            embedded[name] = report.embedded
            output.note(f"{name}: {describe_sync(reading.source, report, seconds)}", style="green")
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


def _check_rebuild(old: QdrantChunkStore, readings: Sequence[Reading]) -> None:
    """Refuse to delete what could not be made again.

    Raises:
        InputError: Stored documents of these folders cannot be read at present.
    """
    for reading in readings:
        known = {document.node_id for document in reading.documents}
        stored = {str(node.ref_doc_id) for node in old.get_nodes(filters=reading.scope)}
        if lost := sorted(filter(reading.keeps, stored - known)):
            raise InputError(
                f"{len(lost)} documents of the index cannot be read at present, the first is {lost[0]!r}; "
                "--rebuild would lose them. Make them readable, or index into another --collection"
            )


def sync_reading(
    corpus: Corpus, reading: Reading, description: str, output: Output
) -> tuple[SyncReport, float]:
    """Bring a store in step with what was read, and measure how long it took.

    Documents that cannot be indexed are named, and join the reading's failures; the others go on.
    """

    def note_failure(document_id: str, error: Exception) -> None:
        reading.failed[document_id] = describe(error)
        output.is_partly = True
        output.note(f"not indexed {document_id}: {describe(error)}", style="yellow")

    total = sum(len(document.text) for document in reading.documents)
    begin = time.perf_counter()
    with output.reserved(), output.progress(description, total) as on_step:
        report = corpus.sync(
            reading.documents,
            scope=reading.scope,
            keeps=reading.keeps,
            progress=on_step,
            on_failure=note_failure,
        )
    return report, time.perf_counter() - begin
