"""Bring documents into a store on a Ray cluster, through LlamaIndex's own pipeline for Ray (extra `ray`)."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode, Document
from llama_index.core.vector_stores.types import MetadataFilters

from rag_embed.errors import InputError, MissingExtraError, StoreError
from rag_embed.llamaindex.corpus import DocumentStore, check_ids
from rag_embed.llamaindex.document_writer import DocumentWriter, WriteReport
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.node_parser import LateChunkingNodeParser
from rag_embed.llamaindex.sync_report import SyncReport

try:
    import ray
    from llama_index.ingestion.ray import RayIngestionPipeline, RayTransformComponent
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise MissingExtraError(
        f"{error.name or error} is not installed; ingestion on Ray needs it. "
        "Run: pip install 'rag-embed[ray]'"
    ) from error

if TYPE_CHECKING:
    from rag_embed.qdrant import QdrantChunkStore
    from rag_embed.qdrant.schema import CollectionSchema

_TASK_RETRIES = 5
"""A document that ends its process every time must not be tried for ever, which is Ray Data's default."""

_OUR_ERROR = re.compile(r"^rag_embed\.errors\.(\w+: .+)$", re.MULTILINE)


class RayCorpus:
    """Documents in a store, brought there by the workers of a Ray cluster.

    Each worker is an actor that loads the encoder once, takes some whole documents at a time, and stores
    their chunks itself; only reports come back. Vectors and points are those of `Corpus`, bit for bit on
    processors of one kind. A worker that dies is started again and does its documents again; a run that has
    lost more than that is run again, and what is complete in the store is not embedded again.

    A server is written to by every worker. An embedded folder belongs to one process: an actor of its own on
    the machine of the driver, to which workers hand their chunks document by document, each waiting until it
    is stored.

    Args:
        open_store: Makes the store, in whichever process writes: `functools.partial(QdrantChunkStore, "docs",
            url=...)`, or a function that takes the api key from the environment of the worker.
        embed_model: Makes the vectors. Its files must be on every machine.
        node_parser: Makes the chunks, as in `Corpus`.
        workers: How many actors.
        batch_documents: How many documents a worker takes at once, which is what a lost worker does again.
        worker_options: More arguments of `ray.data.Dataset.map_batches` for each actor: num_cpus (threads of
            the encoder too; 1 by default), num_gpus, memory (bytes), resources, runtime_env.

    Raises:
        InputError: Workers or documents at a time below 1, or an option that is decided here.
    """

    def __init__(
        self,
        open_store: Callable[[], QdrantChunkStore],
        *,
        embed_model: ContextualEmbedding,
        node_parser: LateChunkingNodeParser | None = None,
        workers: int,
        batch_documents: int = 8,
        **worker_options: Any,
    ) -> None:
        if workers < 1 or batch_documents < 1:
            raise InputError(
                f"found workers={workers}, batch_documents={batch_documents}; expected 1 or more"
            )
        if taken := sorted({"batch_size", "compute", "concurrency"} & worker_options.keys()):
            raise InputError(f"{taken[0]}= is not known; say workers= and batch_documents=")
        self._open_store = open_store
        self._embed_model = embed_model
        self._node_parser = node_parser or LateChunkingNodeParser()
        self._map_options = {
            "batch_size": batch_documents,
            "compute": ray.data.ActorPoolStrategy(size=workers),
            "ray_remote_args_fn": partial(dict, max_task_retries=_TASK_RETRIES),
            **worker_options,
        }

    def update(self, documents: Sequence[Document]) -> WriteReport:
        """Make the store hold these documents as they are now; all others stay as they are.

        May be interrupted at any point and called again: the final collection is the same.

        Args:
            documents: With ids that are the same in every run. The list goes through the driver's memory:
                a corpus that is larger is given in parts.

        Returns:
            What was done, and why a document failed; the others are stored.

        Raises:
            InputError: Two documents have one id, or the store is one that workers cannot reach.
            FingerprintMismatchError: The store holds vectors made in another way.
            StoreError: The run has ended before its end: the store did not answer, or workers died again and
                again. What was stored stays; call it again.
        """
        check_ids(documents)
        sendable, failures = _separate(documents)
        parts = [SyncReport((), (), (), (), (), tuple(failures), 0, 0)]
        if sendable:
            with self._writers() as open_store:
                pipeline = RayIngestionPipeline(transformations=[self._component(open_store)])
                for node in _run(pipeline, sendable):
                    part = WriteReport.from_node(node)
                    parts.append(part.sync)
                    failures.update(part.failures)
        return WriteReport(SyncReport.join(parts, [document.node_id for document in documents]), failures)

    def _component(self, open_store: Callable[[], DocumentStore]) -> RayTransformComponent:
        return RayTransformComponent(
            DocumentWriter,
            map_batches_kwargs=self._map_options,
            transform_kwargs={
                "open_store": open_store,
                "embed_model": self._embed_model,
                "node_parser": self._node_parser,
                "fingerprint": self._embed_model.fingerprint(),
            },
        )

    @contextmanager
    def _writers(self) -> Iterator[Callable[[], DocumentStore]]:
        """Find out how workers reach the store, which is looked into once before any of them starts."""
        with closing(self._open_store()) as store:
            if store.path is None and store.url is None:
                raise InputError(
                    f"the store of {store.collection_name!r} lives in memory or uses a client of this "
                    "process; workers cannot reach it. Expected url= (a server) or path= (a folder here)"
                )
            schema = store.info()
            if schema is not None:
                schema.check_fingerprint(self._embed_model.fingerprint(), "the model to index with")
            is_folder = store.path is not None
        if not is_folder:
            yield self._open_store
            return
        # Ray kills what it ends. The folder bears that, but closing it flushes it to the disk.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        writer = ray.remote(_FolderWriter).options(**options).remote(self._open_store)
        try:
            yield partial(_FolderStore, writer)
        finally:
            ray.get(writer.close.remote())
            ray.kill(writer)


class _FolderWriter:
    """The one process that has an embedded folder open; one call after the other."""

    def __init__(self, open_store: Callable[[], QdrantChunkStore]) -> None:
        self._store = open_store()

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        return getattr(self._store, method)(*args, **options)

    def close(self) -> None:
        self._store.close()


class _FolderStore:
    """An embedded folder as workers see it: each call waits until the writer has done it."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        try:
            return ray.get(self._writer.call.remote(method, *args, **options))
        except ray.exceptions.RayTaskError as error:
            # Whose fault it was decides what happens next, so the writer's own error has to be raised.
            raise error.cause from error

    def info(self) -> CollectionSchema | None:
        found: CollectionSchema | None = self._call("info")
        return found

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return list(self._call("get_nodes", node_ids, filters))

    def replace_document(self, ref_doc_id: str, nodes: Sequence[BaseNode]) -> list[str]:
        return list(self._call("replace_document", ref_doc_id, nodes))

    def delete(self, ref_doc_id: str) -> None:
        self._call("delete", ref_doc_id)


def _separate(documents: Sequence[Document]) -> tuple[list[Document], dict[str, str]]:
    """Tell apart what can be sent to workers, which LlamaIndex does as JSON, and why the rest cannot."""
    sendable, failures = [], {}
    for document in documents:
        try:
            document.to_json()
        except (TypeError, ValueError) as error:
            failures[document.node_id] = (
                f"{type(error).__name__}: {error}; metadata must be what JSON can hold"
            )
        else:
            sendable.append(document)
    return sendable, failures


def _run(pipeline: RayIngestionPipeline, documents: list[Document]) -> Sequence[BaseNode]:
    try:
        nodes: Sequence[BaseNode] = pipeline.run(documents=documents)
        return nodes
    except ray.exceptions.RayError as error:
        # Of an error in a worker Ray hands on the traceback as text; its own last line says nothing of it.
        text = str(error).strip()
        reason = [*text.splitlines()[-1:], *_OUR_ERROR.findall(text)][-1]
    # The frames of its traceback hold the actors, and these their processors; a second run would wait for
    # them for ever. So nothing is raised from it, and the cycle that it is part of is collected.
    gc.collect()
    raise StoreError(
        f"the run on Ray has ended before its end: {reason}. What was stored stays; remove the cause and run "
        "it again"
    )
