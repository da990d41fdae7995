"""Bring collections in step with what was read; nothing is shown here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

from llama_index.core.node_parser import SentenceSplitter

from rag_embed.errors import InputError
from rag_embed.files.reading import Reading
from rag_embed.indexes.claiming import claim
from rag_embed.indexes.opening import ModelOptions, Place
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.llamaindex.corpus import Corpus, Progress, SyncReport
from rag_embed.qdrant import QdrantChunkStore

OnFailure = Callable[[str, Exception], None]
Watch = Callable[[Reading], AbstractContextManager[tuple[Progress, OnFailure]]]
"""Opens what watches over the indexing of one folder: steps and failures are told to it."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of one folder.

    Attributes:
        reading: What was read of it.
        report: What was done.
        seconds: How long that took.
    """

    reading: Reading
    report: SyncReport
    seconds: float


def make_corpus(
    store: QdrantChunkStore, embed_model: ContextualEmbedding, *, chunk_size: int, chunk_overlap: int
) -> Corpus:
    """Cut documents into chunks of so many tokens, and keep a store in step with them."""
    splitter = SentenceSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap)
    return Corpus(store, embed_model=embed_model, node_parser=LateChunkingNodeParser(node_parser=splitter))


def clear_for_rebuild(place: Place, options: ModelOptions, readings: Sequence[Reading]) -> None:
    """Delete a collection that is to be made anew, if all of it can be.

    Raises:
        InputError: Stored documents of these folders cannot be read at present.
        UnsupportedModelError: The model cannot be loaded; that must not cost the index that is there.
    """
    _ = options.make().context_encoder
    with closing(place.open()) as old:
        for reading in readings:
            known = {document.node_id for document in reading.documents}
            stored = {str(node.ref_doc_id) for node in old.get_nodes(filters=reading.scope)}
            if lost := sorted(filter(reading.keeps, stored - known)):
                raise InputError(
                    f"{len(lost)} documents of the index cannot be read at present, the first is "
                    f"{lost[0]!r}; --rebuild would lose them. Make them readable, or index into another "
                    "--collection"
                )
        old.clear()
    with closing(place.open_named(place.collection)) as root:
        root.clear()  # which said, after a migration, that another one has taken its place


def fill_all(
    corpus: Corpus, store: QdrantChunkStore, readings: Sequence[Reading], watch: Watch
) -> Iterator[Filled]:
    """Bring a collection in step with folders, one after the other, each under its own name.

    Raises:
        InputError: A name belongs to another folder.
    """
    for reading in readings:
        claim(store, reading)
        filled = fill(corpus, reading, watch)
        claim(store, reading)
        yield filled


def fill(corpus: Corpus, reading: Reading, watch: Watch) -> Filled:
    """Bring a store in step with what was read; documents that fail are told, and the others go on."""
    begin = time.perf_counter()
    with watch(reading) as (on_step, on_failure):
        report = corpus.sync(
            reading.documents,
            scope=reading.scope,
            keeps=reading.keeps,
            progress=on_step,
            on_failure=on_failure,
        )
    return Filled(reading, report, time.perf_counter() - begin)
