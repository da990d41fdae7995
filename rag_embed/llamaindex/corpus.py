"""Keep a store in step with documents that come, change and go.

What is in the store is found out by asking the store; there is no second record to lose or to contradict it.
A document is up to date when the store holds exactly the chunks that parsing gives now, each of them with
this model's fingerprint. So a document that was written half, in any way, counts as changed, and the next run
puts it right; parsing is cheap, and only embedding is saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from llama_index.core.schema import BaseNode, Document
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from rag_embed.errors import InputError, StoreError, UnsupportedModelError
from rag_embed.llamaindex.chunk_digest import digest_chunk
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.node_parser import LateChunkingNodeParser

if TYPE_CHECKING:
    from rag_embed.qdrant import QdrantChunkStore

State = Literal["added", "changed", "unchanged", "removed", "kept", "failed"]

_DOCUMENT_KEY = "doc_id"
_WRITTEN = ("added", "changed")
GROUP_CHARACTERS = 32_768
"""Texts embedded together: enough for short ones to share passes, few enough to lose at a kill."""


@dataclass(frozen=True, slots=True)
class SyncStep:
    """One document is done.

    Attributes:
        document_id: Which.
        state: What was done.
        characters: Length of its text; 0 for a removed one.
    """

    document_id: str
    state: State
    characters: int


@dataclass(slots=True)
class _Job:
    """A document on its way into the store."""

    document: Document
    nodes: Sequence[BaseNode] = ()
    state: State = "failed"


Progress: TypeAlias = Callable[[SyncStep], None]
OnFailure: TypeAlias = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What bringing a store up to date took.

    Attributes:
        added: Ids of documents of which the store had nothing.
        changed: Ids of documents of which the store had something else.
        removed: Ids of documents that are gone.
        unchanged: Ids of documents that were complete already.
        kept: Ids of documents that are gone, or not to be seen at present, and stay.
        failed: Ids of documents that could not be chunked, embedded or stored; the store has of them what it
            had before.
        chunks: Chunks of all present documents.
        embedded: Chunks that went through the model.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[str, ...]
    chunks: int
    embedded: int


class Corpus:
    """Documents in a store.

    Args:
        store: Where the chunks are kept.
        embed_model: Makes the vectors.
        node_parser: Makes the chunks. Pages of one file belong into one document (see `join_pages`), where
            each is read in the light of the others.
    """

    def __init__(
        self,
        store: QdrantChunkStore,
        *,
        embed_model: ContextualEmbedding,
        node_parser: LateChunkingNodeParser | None = None,
    ) -> None:
        self._store = store
        self._embed_model = embed_model
        # Parsing is for every run, embedding for what has changed: the parser shall not embed by itself.
        self._node_parser = (node_parser or LateChunkingNodeParser()).model_copy(update={"embed_model": None})
        self._fingerprint = embed_model.fingerprint()

    def sync(
        self,
        documents: Sequence[Document],
        *,
        scope: MetadataFilters | None = None,
        keeps: Callable[[str], bool] | None = None,
        progress: Progress | None = None,
        on_failure: OnFailure | None = None,
    ) -> SyncReport:
        """Make the store hold these documents and, in its scope, no others.

        May be interrupted at any point and called again: the final collection is the same.

        Args:
            documents: With ids that are the same in every run.
            scope: Which stored documents may be removed when they are not among the given ones; None is all.
            keeps: Tells of a stored document in the scope that is not among the given ones whether it stays
                all the same; None lets none stay.
            progress: Called for each document when it is done.
            on_failure: Called with the id of a document that cannot be chunked, embedded or stored, and why;
                the others go on. None raises, and ends there. What the store itself cannot do (it is
                full, does not answer), or the model (it cannot be loaded), always raises.

        Raises:
            InputError: Two documents have one id.
            FingerprintMismatchError: The store holds vectors made in another way.
        """
        self._check(documents)
        states: dict[str, State] = {}
        chunk_count = embedded_count = 0
        for group in _group(documents):
            for job in self._sync_group(group, on_failure):
                if job.state != "failed":
                    chunk_count += len(job.nodes)
                if job.state in _WRITTEN:
                    embedded_count += len(job.nodes)
                states[job.document.node_id] = job.state
                _tell(progress, job.document.node_id, job.state, len(job.document.text))
        for document_id in self._find_gone(list(states), scope):
            if keeps is not None and keeps(document_id):
                states[document_id] = "kept"
                continue
            self._store.delete(document_id)
            states[document_id] = "removed"
            _tell(progress, document_id, "removed", 0)

        def ids(wanted: State) -> tuple[str, ...]:
            return tuple(document_id for document_id, state in states.items() if state == wanted)

        return SyncReport(
            added=ids("added"),
            changed=ids("changed"),
            removed=ids("removed"),
            unchanged=ids("unchanged"),
            kept=ids("kept"),
            failed=ids("failed"),
            chunks=chunk_count,
            embedded=embedded_count,
        )

    def _sync_group(self, documents: Sequence[Document], on_failure: OnFailure | None) -> Sequence[_Job]:
        """Bring some documents up to date, which are embedded together and stored one by one."""
        jobs = [_Job(document) for document in documents]

        def attempt(step: Callable[[_Job], None], job: _Job) -> None:
            try:
                step(job)
            except (StoreError, UnsupportedModelError, OSError, MemoryError):
                raise
            except Exception as error:  # parsers are third-party code and raise what they like
                if on_failure is None:
                    raise
                on_failure(job.document.node_id, error)
                job.state = "failed"

        for job in jobs:
            attempt(self._prepare, job)
        pending = [job for job in jobs if job.state in _WRITTEN]
        # Whose fault an error is shows when each is embedded by itself; vectors that are made stay.
        with suppress(Exception):
            self._embed_model([node for job in pending for node in job.nodes])
        for job in pending:
            attempt(self._write, job)
        return jobs

    def _prepare(self, job: _Job) -> None:
        job.nodes = self._node_parser.get_nodes_from_documents([job.document])
        job.state = self._compare(job.document, job.nodes)

    def _write(self, job: _Job) -> None:
        self._embed_model(job.nodes)
        self._store.replace_document(job.document.node_id, job.nodes)

    def _check(self, documents: Sequence[Document]) -> None:
        counts = Counter(document.node_id for document in documents)
        if doubles := [document_id for document_id, count in counts.items() if count > 1]:
            raise InputError(
                f"{len(doubles)} document ids are given more than once, the first is {doubles[0]!r}; "
                "expected one id per document, the same in every run"
            )
        schema = self._store.info()
        if schema is not None:
            schema.check_fingerprint(self._fingerprint, "the model to index with")

    def _compare(self, document: Document, nodes: Sequence[BaseNode]) -> State:
        """Compare the chunks that a document should have with those that the store has."""
        found = self._store.get_nodes(filters=_where(FilterOperator.ANY, [document.node_id]))
        stored = {node.node_id: digest_chunk(node) if node.embedding else "" for node in found}
        if stored == {node.node_id: digest_chunk(node, self._fingerprint) for node in nodes}:
            return "unchanged"
        return "changed" if stored else "added"

    def _find_gone(self, present: list[str], scope: MetadataFilters | None) -> list[str]:
        others = _where(FilterOperator.NIN, present)
        if scope is not None:
            others.filters.append(scope)
        return sorted(
            {str(node.ref_doc_id) for node in self._store.get_nodes(filters=others) if node.ref_doc_id}
        )


def _where(operator: FilterOperator, ids: list[str]) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=_DOCUMENT_KEY, operator=operator, value=ids)])


def _group(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Consecutive documents that are embedded together."""
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and size + len(document.text) > GROUP_CHARACTERS:
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document.text)
    if group:
        yield group


def _tell(progress: Progress | None, document_id: str, state: State, characters: int) -> None:
    if progress is not None:
        progress(SyncStep(document_id, state, characters))
