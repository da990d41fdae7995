"""A node parser that knows where its chunks stand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import llama_index.core
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings.loading import load_embed_model
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    NodeParser,
    SemanticSplitterNodeParser,
    SentenceSplitter,
)
from llama_index.core.node_parser.loading import all_node_parsers
from llama_index.core.schema import (
    BaseComponent,
    BaseNode,
    Document,
    MetadataMode,
    TextNode,
)
from llama_index.core.utils import get_tqdm_iterable
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rag_embed.errors import InputError
from rag_embed.llamaindex.context import make_stamps, stamp_node
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.pickling import make_state
from rag_embed.llamaindex.placement import locate_nodes, measure_depths, parse_document, rename_nodes
from rag_embed.spans import CharSpan

# LlamaIndex's splitters unpickle a tiktoken tokenizer in worker processes, which downloads its table unless
# this variable is set; offline the pool then waits for ever. The table ships with llama-index-core.
os.environ.setdefault(
    "TIKTOKEN_CACHE_DIR", str(Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache")
)

_CONTEXT_SEPARATOR = "\n\n"
_PARSERS: dict[str, type[NodeParser]] = {
    **all_node_parsers,
    SemanticSplitterNodeParser.class_name(): SemanticSplitterNodeParser,
}


class LateChunkingNodeParser(NodeParser):
    """Wraps any node parser; its chunks keep the exact place they have in their document.

    Every node gets `start_char_idx` and `end_char_idx` such that the document's text at that span is the
    node's text, an id that depends on nothing but document id, position and text, and a stamp from which
    `ContextualEmbedding` rebuilds the document. Chunks that are nothing but white space make no node, as an
    index leaves them out too.

    Attributes:
        node_parser: Decides where to cut; by default LlamaIndex's `SentenceSplitter`.
        embed_model: If given, nodes leave the parser with their vectors, which indexes and pipelines then
            keep.
        context_key: Metadata key whose value joins several documents into one context, such as "file_path"
            for readers that make one document of each page. Only documents of one call are joined.

    Raises:
        AlignmentError: A chunk is not a part of its document, because the inner parser rewrites text.
        EmptySpanError, EmptyTextError: See `ContextualEmbedding`; only with `embed_model`.
    """

    node_parser: SerializeAsAny[NodeParser] = Field(default_factory=SentenceSplitter)
    embed_model: SerializeAsAny[BaseEmbedding] | None = None
    context_key: str | None = None

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "LateChunkingNodeParser"

    @model_validator(mode="before")
    @classmethod
    def _load_parts(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: _revive(value) for name, value in fields.items() if not _is_serialised_function(value)}

    @field_validator("embed_model", mode="before")
    @classmethod
    def _load_embed_model(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return _load_embedding(value)

    @field_validator("node_parser", mode="before")
    @classmethod
    def _check_node_parser(cls, value: object) -> object:
        if isinstance(value, dict):
            raise InputError(
                f"node_parser is written down as {value.get('class_name')!r}, which does not name one class "
                "of LlamaIndex's parsers; construct it again instead of loading it from_dict"
            )
        return value

    def __getstate__(self) -> dict[str, Any]:
        return make_state(self, local={"callback_manager"}, copy=_detach)

    def _parse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        contexts = self._group_by_context(nodes)
        result: list[BaseNode] = []
        for documents in get_tqdm_iterable(contexts, show_progress, "Parsing documents"):
            result += self._parse_context(documents)
        return list(self.embed_model(result, show_progress=show_progress)) if self.embed_model else result

    async def _aparse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self._parse_nodes, nodes, show_progress, **kwargs)

    def _postprocess_parsed_nodes(
        self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]
    ) -> list[BaseNode]:
        # The inner parser has done all this (metadata, neighbours); the base class would do it again and
        # replace the positions by those of the first equal text.
        return nodes

    def _group_by_context(self, documents: Sequence[BaseNode]) -> list[list[BaseNode]]:
        if self.context_key is None:
            return [[document] for document in documents]
        groups: dict[str, list[BaseNode]] = {}
        for document in documents:
            key = document.metadata.get(self.context_key)
            groups.setdefault(f"id:{document.node_id}" if key is None else f"key:{key}", []).append(document)
        return list(groups.values())

    def _parse_context(self, documents: Sequence[BaseNode]) -> list[BaseNode]:
        texts = [document.get_content(metadata_mode=MetadataMode.NONE) for document in documents]
        context = _CONTEXT_SEPARATOR.join(texts)
        result: list[TextNode] = []
        places: list[tuple[int, CharSpan]] = []
        offset = 0
        for document, text in zip(documents, texts, strict=True):
            nodes = parse_document(self.node_parser, document)
            spans = locate_nodes(nodes, text)
            for node, span, depth in zip(nodes, spans, measure_depths(nodes), strict=True):
                node.text = text[span.start : span.end]
                node.start_char_idx, node.end_char_idx = span.start, span.end
                places.append((depth, CharSpan(span.start + offset, span.end + offset)))
            rename_nodes(nodes, document)
            result += nodes
            offset += len(text) + len(_CONTEXT_SEPARATOR)
        for node, stamp in zip(result, make_stamps(context, places, owner=documents[0].node_id), strict=True):
            stamp_node(node, stamp)
        return list(result)


def _detach(value: object) -> object:
    """Copy components, with components inside them, as deep as their fields."""
    if isinstance(value, dict):
        return {key: _detach(part) for key, part in value.items()}
    if isinstance(value, BaseComponent):
        twin = copy(value)
        twin.__dict__.update({name: _detach(part) for name, part in value.__dict__.items()})
        return twin
    return value


def _load_embedding(data: dict[str, Any]) -> BaseEmbedding:
    """Load an embedding model of ours, or one that LlamaIndex knows by its name."""
    if data.get("class_name", ContextualEmbedding.class_name()) == ContextualEmbedding.class_name():
        return ContextualEmbedding.from_dict(data)
    return load_embed_model(data)


def _is_serialised_function(value: object) -> bool:
    """Whether a field holds only the name of an id function, which LlamaIndex writes and cannot read."""
    return isinstance(value, dict) and "id_func_name" in value


def _revive(value: object) -> object:
    """Turn the serialised form of a parser, with parsers inside it, into the parser; leave all else."""
    if not isinstance(value, dict):
        return value
    parts = {key: _revive(part) for key, part in value.items() if not _is_serialised_function(part)}
    class_name = str(value.get("class_name"))
    if class_name == ContextualEmbedding.class_name():
        return ContextualEmbedding.from_dict(value)
    parser_class = _PARSERS.get(class_name)
    # MarkdownNodeParser has not given itself a name, nor have others.
    if parser_class is None or (class_name == "base_component" and "header_path_separator" not in value):
        return parts
    if parser_class is HierarchicalNodeParser:
        raise InputError(
            "a HierarchicalNodeParser does not write down its inner parsers' sizes, so it cannot be read "
            "back; construct it again instead of loading it from_dict"
        )
    parts.pop("class_name")
    return parser_class(**parts)
