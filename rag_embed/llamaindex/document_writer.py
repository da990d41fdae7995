"""A transformation that takes whole documents, writes their chunks, and returns only what it did."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llama_index.core.schema import BaseNode, Document, TextNode, TransformComponent
from pydantic import Field, PrivateAttr

from rag_embed.errors import FingerprintMismatchError, InputError
from rag_embed.llamaindex.corpus import Corpus, DocumentStore
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.node_parser import LateChunkingNodeParser
from rag_embed.llamaindex.sync_report import SyncReport


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What became of some documents.

    Attributes:
        sync: What was done.
        failures: Why a document was not stored, by its id.
    """

    sync: SyncReport
    failures: Mapping[str, str]

    def to_node(self) -> TextNode:
        """Write it as a node, which is all that a transformation can return."""
        return TextNode(text=json.dumps(asdict(self)))

    @classmethod
    def from_node(cls, node: BaseNode) -> WriteReport:
        """Read what `to_node` wrote."""
        content = json.loads(node.get_content())
        sync: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["sync"].items()
        }
        return cls(SyncReport(**sync), content["failures"])


class DocumentWriter(TransformComponent):
    """The last step of a pipeline whose nodes shall not travel: it cuts, embeds and stores by itself.

    Store and encoder are opened at the first call and kept. Documents that the store has complete already are
    left alone, so a call that was cut off is simply made again.

    Args:
        open_store: Opens the store, in the process that is to write.
        embed_model: Makes the vectors.
        node_parser: Makes the chunks.
        fingerprint: What the model's must be, so that a machine with other weights writes nothing.
    """

    open_store: Callable[[], DocumentStore]
    embed_model: ContextualEmbedding
    node_parser: LateChunkingNodeParser = Field(default_factory=LateChunkingNodeParser)
    fingerprint: str | None = None

    _corpus: Corpus | None = PrivateAttr(default=None)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Store documents; a document that cannot be stored is reported, and the others go on.

        Args:
            nodes: Whole documents.
            kwargs: Not used; pipelines pass theirs to every step.

        Returns:
            One node that holds a `WriteReport`.

        Raises:
            InputError: Something else than documents.
            FingerprintMismatchError: The model, or the collection, is another than `fingerprint`.
            StoreError: The store cannot do its work. What was stored stays.
        """
        failures: dict[str, str] = {}

        def on_failure(document_id: str, error: Exception) -> None:
            failures[document_id] = f"{type(error).__name__}: {error}"

        report = self._open().update(_take_documents(nodes), on_failure=on_failure)
        return [WriteReport(report, failures).to_node()]

    def _open(self) -> Corpus:
        if self._corpus is None:
            found = self.embed_model.fingerprint()
            if self.fingerprint is not None and found != self.fingerprint:
                raise FingerprintMismatchError(
                    f"the model on this machine makes vectors {found!r}; expected {self.fingerprint!r}, what "
                    "the machine that started the run makes. Install the same model on all of them"
                )
            self._corpus = Corpus(
                self.open_store(), embed_model=self.embed_model, node_parser=self.node_parser
            )
        return self._corpus


def _take_documents(nodes: Sequence[BaseNode]) -> list[Document]:
    documents = [node for node in nodes if isinstance(node, Document)]
    if len(documents) < len(nodes):
        stranger = next(node for node in nodes if not isinstance(node, Document))
        raise InputError(
            f"{len(nodes) - len(documents)} of {len(nodes)} nodes are no documents, the first is a "
            f"{type(stranger).__name__} {stranger.node_id!r}; expected whole documents, which are cut here. "
            "Leave out the parser before this step"
        )
    return documents
