"""What an agent may do with an index: search it, read its documents, list them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from llama_index.core.vector_stores.types import MetadataFilters
from pydantic import BaseModel, Field

from rag_embed.chat.filters import parse_filters
from rag_embed.chat.passages import Passage
from rag_embed.chat.searching import Rerank, Searcher
from rag_embed.errors import InputError
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.llamaindex.stored_document import StoredDocument
from rag_embed.qdrant import QdrantChunkStore

READ_CHARACTERS = 8_000
"""Characters of a document that are read where no end is given."""
MAX_READ_CHARACTERS = 100_000
MAX_PASSAGES = 50
MAX_DOCUMENTS = 500

FilterValue: TypeAlias = str | int | float | bool

Query = Annotated[str, Field(description="A question, or words, in natural language.")]
TopK = Annotated[int, Field(ge=1, le=MAX_PASSAGES, description="Most passages.")]
Filters = Annotated[
    dict[str, FilterValue] | None,
    Field(description='Metadata that passages must have, such as {"source": "docs"}; all must hold.'),
]
DocumentId = Annotated[str, Field(description="Id of a document, as search and list_documents name it.")]
Start = Annotated[int, Field(ge=0, description="First character, counted from 0.")]
End = Annotated[
    int | None, Field(description=f"One past the last character; without it {READ_CHARACTERS} are read.")
]
Contains = Annotated[str, Field(description="Only documents whose id contains this, in any case.")]
Offset = Annotated[int, Field(ge=0, description="How many of the documents to leave out at the beginning.")]
Limit = Annotated[int, Field(ge=1, le=MAX_DOCUMENTS, description="Most documents.")]


class FoundPassage(BaseModel):
    """One passage: characters `start` to `end` (not included) of a document."""

    document: str
    start: int
    end: int
    text: str
    score: float
    stages: dict[str, float] = Field(description="Scores by meaning, by words and by tokens, where known.")


class SearchResult(BaseModel):
    """Passages, best first, and what to know of them."""

    passages: list[FoundPassage]
    notes: list[str]


class DocumentPart(BaseModel):
    """Characters `start` to `end` (not included); without text where the index has lost them."""

    start: int
    end: int
    text: str | None


class ReadResult(BaseModel):
    """Part of a document; `length` is what is known of its length."""

    document: str
    start: int
    end: int
    length: int
    parts: list[DocumentPart]
    notes: list[str]


class ListedDocument(BaseModel):
    """A document, and how many chunks of it are indexed."""

    document: str
    chunks: int


class DocumentList(BaseModel):
    """Documents in the order of their ids; `total` counts all, whatever offset and limit leave out."""

    documents: list[ListedDocument]
    total: int
    notes: list[str]


class IndexTools:
    """An index as a few functions whose results are plain data.

    They may be called from several threads at once.

    Args:
        store: The index.
        embed_model: The model it was made with.
        candidates: How many passages the reranker chooses from.
        rerank: How they are reranked.
        filters: What every passage must have, whatever else is asked for. Documents that have none are
            neither read nor listed.
    """

    def __init__(
        self,
        store: QdrantChunkStore,
        embed_model: ContextualEmbedding,
        *,
        candidates: int = 50,
        rerank: Rerank = "auto",
        filters: MetadataFilters | None = None,
    ) -> None:
        self._store = store
        self._embed_model = embed_model
        self._candidates = candidates
        self._rerank: Rerank = rerank
        self._filters = filters

    def search(self, query: Query, top_k: TopK = 5, filters: Filters = None) -> SearchResult:
        """Find the passages of the indexed documents that answer a question, best first.

        Each passage says its document and its exact characters there; `read` shows what stands around it.
        """
        searcher = Searcher(
            self._store,
            self._embed_model,
            top_k=top_k,
            candidates=self._candidates,
            rerank=self._rerank,
            filters=self._filters,
        )
        found = searcher.search(query, filters=_to_filters(filters or {}))
        passages = [_to_found(passage) for passage in found.passages]
        notes = [found.unranked] if found.unranked else []
        if not passages:
            notes.append("nothing found" + ("; try without filters" if filters else ""))
        return SearchResult(passages=passages, notes=notes)

    def read(self, document: DocumentId, start: Start = 0, end: End = None) -> ReadResult:
        """Read a document between two characters."""
        self._check_visible(document)
        found = StoredDocument.fetch(self._store, document)
        stop = min(found.length, start + READ_CHARACTERS) if end is None else end
        if stop - start > MAX_READ_CHARACTERS:
            raise InputError(
                f"characters {start} to {stop} were asked for; expected at most {MAX_READ_CHARACTERS}. "
                "Read the rest afterwards"
            )
        parts = [
            DocumentPart(start=each.start, end=each.end, text=each.text) for each in found.read(start, stop)
        ]
        notes = [
            f"characters {part.start} to {part.end} are not in the index"
            for part in parts
            if part.text is None
        ]
        if stop < found.length:
            notes.append(f"{found.length - stop} more characters follow; read on with start={stop}")
        if not found.is_whole:
            notes.append(
                "the document is not completely in the index, so it may be longer than is known here"
            )
        return ReadResult(
            document=document, start=start, end=stop, length=found.length, parts=parts, notes=notes
        )

    def list_documents(self, contains: Contains = "", offset: Offset = 0, limit: Limit = 100) -> DocumentList:
        """List the indexed documents by id."""
        counts = self._store.count_by_document(self._filters)
        names = [name for name in counts if contains.casefold() in name.casefold()]
        page = names[offset : offset + limit]
        left = len(names) - offset - len(page)
        notes = [f"{left} more documents follow; list on with offset={offset + limit}"] if left > 0 else []
        if not names:
            notes.append("there are none" + (f" whose id contains {contains!r}" if contains else ""))
        return DocumentList(
            documents=[ListedDocument(document=name, chunks=counts[name]) for name in page],
            total=len(names),
            notes=notes,
        )

    def _check_visible(self, document: str) -> None:
        if self._filters is not None and document not in self._store.count_by_document(self._filters):
            raise InputError(
                f"there is no document {document!r} among those that may be read here; list_documents names "
                "them"
            )


def _to_filters(wanted: Mapping[str, FilterValue]) -> MetadataFilters | None:
    if odd := [key for key in wanted if "=" in key]:
        raise InputError(f"the filter's key is {odd[0]!r}; expected a metadata key, which has no '='")
    return parse_filters([f"{key}={_spell(value)}" for key, value in wanted.items()])


def _spell(value: FilterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _to_found(passage: Passage) -> FoundPassage:
    return FoundPassage(
        document=passage.document,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        score=passage.score,
        stages=dict(passage.stages),
    )
