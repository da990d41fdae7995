"""A node parser for chunks that somebody else has made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.node_parser import NodeParser
from llama_index.core.node_parser.node_utils import build_nodes_from_splits
from llama_index.core.schema import BaseNode, Document, MetadataMode, TextNode
from llama_index.core.utils import get_tqdm_iterable

from rag_embed.errors import InputError, SpanOutOfRangeError
from rag_embed.spans import CharSpan


class SpanNodeParser(NodeParser):
    """Cuts each document at the spans that its own metadata list.

    Wrap it to embed them in context: `LateChunkingNodeParser(node_parser=SpanNodeParser())`. Spans may
    overlap and leave gaps; what stands in a gap is read as context.

    Attributes:
        spans_key: Metadata key of the list, pairs of first character and one past the last, such as
            `Document(text=..., metadata={"spans": [[0, 120], [120, 300]]})`. It is not passed on to chunks.

    Raises:
        InputError: A document without such a list.
        SpanOutOfRangeError: A span that leaves its document, or is reversed.
    """

    spans_key: str = "spans"

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "SpanNodeParser"

    def _parse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        result: list[BaseNode] = []
        for document in get_tqdm_iterable(nodes, show_progress, "Parsing nodes"):
            text = document.get_content(metadata_mode=MetadataMode.NONE)
            spans = self._read_spans(document, len(text))
            texts = [text[span.start : span.end] for span in spans]
            made = build_nodes_from_splits(texts, self._without_spans(document), id_func=self.id_func)
            for node, span in zip(made, spans, strict=True):
                node.start_char_idx, node.end_char_idx = span.start, span.end
            result += made
        return result

    def _postprocess_parsed_nodes(
        self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]
    ) -> list[BaseNode]:
        # The base class looks for the first equal text; what was given is known better.
        places = [(node, CharSpan(*given_place(node))) for node in nodes]
        parents = {name: self._without_spans(document) for name, document in parent_doc_map.items()}
        nodes = super()._postprocess_parsed_nodes(nodes, parents)
        for node, span in places:
            if isinstance(node, TextNode):
                node.start_char_idx, node.end_char_idx = span.start, span.end
        return nodes

    def _read_spans(self, document: BaseNode, length: int) -> list[CharSpan]:
        given = document.metadata.get(self.spans_key)
        try:
            pairs = [(int(start), int(end)) for start, end in given or []]
        except (TypeError, ValueError):
            pairs = []
        if not isinstance(given, list) or len(pairs) != len(given):
            raise InputError(
                f"document {document.node_id!r} has {str(given)[:80]} under metadata key {self.spans_key!r}; "
                "expected its chunks as [[start, end], ...]"
            )
        try:
            spans = [CharSpan(start, end) for start, end in pairs]
        except SpanOutOfRangeError as error:
            raise SpanOutOfRangeError(f"document {document.node_id!r}: {error}") from error
        for span in spans:
            if span.end > length:
                raise SpanOutOfRangeError(
                    f"document {document.node_id!r} has {length} characters and the span [{span.start}, "
                    f"{span.end}); expected spans inside it. They belong to another version of the text"
                )
        return spans

    def _without_spans(self, document: Any) -> Any:
        kept = {key: value for key, value in document.metadata.items() if key != self.spans_key}
        return document.model_copy(update={"metadata": kept})


def given_place(node: BaseNode) -> tuple[int, int]:
    """Tell where a node says that it stands."""
    assert isinstance(node, TextNode)
    assert node.start_char_idx is not None and node.end_char_idx is not None
    return node.start_char_idx, node.end_char_idx
