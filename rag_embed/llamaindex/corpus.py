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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from llama_index.core.schema import BaseNode, Document
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from rag_embed.errors import InputError, StoreError, UnsupportedModelError
from rag_embed.llamaindex.chunk_digest import digest_chunk
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.node_parser import LateChunkingNodeParser
from rag_embed.llamaindex.sync_report import State, SyncReport, SyncStep

if TYPE_CHECKING:
    from rag_embed.qdrant.schema import CollectionSchema

_DOCUMENT_KEY = "doc_id"
_WRITTEN = ("added", "changed")
GROUP_CHARACTERS = 32_768
"""Texts embedded together: enough for short ones to share passes, few enough to lose at a kill."""


@dataclass(slots=True)
class _Job:
    """A document on its way into the store."""

    document: Document
    nodes: Sequence[BaseNode] = ()
    state: State = "failed"


Progress: TypeAlias = Callable[[SyncStep], None]
OnFailure: TypeAlias = Callable[[str, Exception], None]


class DocumentStore(Protocol):
    """What a corpus asks of a `QdrantChunkStore`, which is one."""

    def info(self) -> CollectionSchema | None:
        """Read what the collection holds; None if it does not exist."""

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Fetch, with embeddings, what passes the filters."""

    def replace_document(self, ref_doc_id: str, nodes: Sequence[BaseNode]) -> list[str]:
        """Put new chunks in the place of all that a document has."""

    def delete(self, ref_doc_id: str) -> None:
        """Delete every chunk of a document."""


class Corpus:
    """Documents in a store.

    Args:
        store: A `QdrantChunkStore`, where the chunks are kept.
        embed_model: Makes the vectors.
        node_parser: Makes the chunks. Pages of one file belong into one document (see `join_pages`), where
            each is read in the light of the others.
    """

    def __init__(
        self,
        store: DocumentStore,
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
        report = self.update(documents, progress=progress, on_failure=on_failure)
        gone: dict[State, list[str]] = {"removed": [], "kept": []}
        for document_id in self._find_gone([document.node_id for document in documents], scope):
            if keeps is not None and keeps(document_id):
                gone["kept"].append(document_id)
                continue
            self._store.delete(document_id)
            gone["removed"].append(document_id)
            _tell(progress, document_id, "removed", 0)
        return replace(report, removed=tuple(gone["removed"]), kept=tuple(gone["kept"]))

    def update(
        self,
        documents: Sequence[Document],
        *,
        progress: Progress | None = None,
        on_failure: OnFailure | None = None,
    ) -> SyncReport:
        """Do what `sync` does for these documents, and leave all others in the store.

        So several processes may each bring some documents into one store.
        """
        check_ids(documents)
        schema = self._store.info()
        if schema is not None:
            schema.check_fingerprint(self._fingerprint, "the model to index with")
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

        def ids(wanted: State) -> tuple[str, ...]:
            return tuple(document_id for document_id, state in states.items() if state == wanted)

        return SyncReport(
            added=ids("added"),
            changed=ids("changed"),
            removed=(),
            unchanged=ids("unchanged"),
            kept=(),
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


def check_ids(documents: Sequence[Document]) -> None:
    """Refuse documents of which two have one id.

    Raises:
        InputError: With the first such id.
    """
    counts = Counter(document.node_id for document in documents)
    if doubles := [document_id for document_id, count in counts.items() if count > 1]:
        raise InputError(
            f"{len(doubles)} document ids are given more than once, the first is {doubles[0]!r}; "
            "expected one id per document, the same in every run"
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
