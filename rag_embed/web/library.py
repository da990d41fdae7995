"""The collections of one place, opened when they are needed and shared by all; and files put into them."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from rag_embed.errors import InputError
from rag_embed.files.reading import read_folder
from rag_embed.indexes import DEFAULT_CHUNK_SIZE
from rag_embed.indexes.opening import ModelOptions, Place
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.llamaindex.corpus import Corpus
from rag_embed.qdrant import QdrantChunkStore

UPLOADS = "uploads"
"""Source of the documents that were dropped into the page; their ids begin with it."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\\ud800-\udfff]")
_NAME_CHARACTERS = 150

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Shelf:
    """An open collection and the model it was, or will be, made with.

    Attributes:
        store: Where its chunks are.
        embed_model: Makes its vectors.
        writing: Held while documents are put in.
    """

    store: QdrantChunkStore
    embed_model: ContextualEmbedding
    writing: threading.Lock = field(default_factory=threading.Lock, repr=False)


class Library:
    """The collections of an embedded folder or a server. All methods may be called from several threads.

    Args:
        place: Where they are, and which is shown first; it need not exist yet.
        options: What was said about the model of that first one; others use what they were made with.
    """

    def __init__(self, place: Place, options: ModelOptions) -> None:
        self._place = place
        self._options = options
        self._shelves: dict[str, Shelf] = {}
        self._opening = threading.Lock()

    @property
    def first(self) -> str:
        """Name of the collection that is shown first."""
        return self._place.collection

    def list_collections(self) -> list[str]:
        """Name the collections, the first one first, whether it exists or not."""
        if self._place.url is not None:
            client = QdrantClient(self._place.url, api_key=self._place.api_key)
            try:
                names = [each.name for each in client.get_collections().collections]
            finally:
                client.close()
        else:
            folder = self._place.folder
            names = [path.parent.name for path in folder.glob("*/collection.json")] if folder.is_dir() else []
        return [self.first, *sorted(set(names) - {self.first})]

    def shelf(self, collection: str) -> Shelf:
        """Open a collection, or return it as it was opened before.

        Raises:
            StoreError: It cannot be opened, or its model cannot be found again.
            InputError: There is no such collection.
        """
        with self._opening:
            if (known := self._shelves.get(collection)) is not None:
                return known
            if collection not in self.list_collections():
                raise InputError(f"there is no collection {collection!r}; choose one of the list")
            store = replace(self._place, collection=collection).open_for_writing()
            try:
                options = self._options if collection == self.first else ModelOptions()
                shelf = Shelf(store, options.make_for(store))
            except BaseException:
                store.close()
                raise
            self._shelves[collection] = shelf
            return shelf

    def count(self, collection: str) -> int:
        """Count the chunks of a collection, opening it if it is not open."""
        return self.shelf(collection).store.count()

    def add(self, collection: str, owner: str, name: str, data: bytes, *, tell: Tell) -> int:
        """Read a file and put it into a collection; the same name of the same owner replaces.

        Args:
            collection: Which.
            owner: Whose file it is: files of one name from two people are two documents.
            name: What the file is called.
            data: Its content.
            tell: Called with what is being done.

        Returns:
            How many chunks it has.

        Raises:
            InputError: It cannot be read, or holds no text.
            StoreError: It cannot be stored.
        """
        tell("reading")
        with tempfile.TemporaryDirectory(prefix="rag-embed-") as folder:
            shown = _clean(name)
            path = Path(folder, owner[:8], shown)
            path.parent.mkdir()
            path.write_bytes(data)
            reading = read_folder(Path(folder), name=UPLOADS)
        for reasons in (reading.failed, reading.skipped, reading.empty):
            for reason in reasons.values():
                raise InputError(f"{shown} was not read: {reason}")
        (document,) = reading.documents
        shelf = self.shelf(collection)
        tell("waiting for another file" if shelf.writing.locked() else "embedding")
        with shelf.writing:
            tell(f"embedding {len(document.text):,} characters")
            parser = LateChunkingNodeParser(
                node_parser=SentenceSplitter(chunk_size=DEFAULT_CHUNK_SIZE, chunk_overlap=0)
            )
            corpus = Corpus(shelf.store, embed_model=shelf.embed_model, node_parser=parser)
            own = MetadataFilter(key="doc_id", value=[document.node_id], operator=FilterOperator.IN)
            report = corpus.sync([document], scope=MetadataFilters(filters=[own]))
        return report.chunks

    def close(self) -> None:
        """Close every collection that was opened."""
        with self._opening:
            for shelf in self._shelves.values():
                shelf.store.close()
            self._shelves.clear()


def _clean(name: str) -> str:
    """Make a browser's name of a file one that is a plain file here: neither a path nor hidden."""
    clean = _UNSAFE.sub("_", name).strip().lstrip(".")
    if not clean:
        raise InputError(f"the file is called {name[:80]!r}; expected a name with letters or digits")
    stem, dot, suffix = clean.rpartition(".")
    return (
        clean
        if len(clean) <= _NAME_CHARACTERS
        else f"{(stem or suffix)[:_NAME_CHARACTERS]}{dot}{suffix[:12]}"
    )
