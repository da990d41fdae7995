"""A node parser that knows where its chunks stand."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import llama_index.core
from llama_index.core import Settings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings.loading import load_embed_model
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    NodeParser,
    SemanticSplitterNodeParser,
    SentenceSplitter,
)
from llama_index.core.node_parser.loading import all_node_parsers
from llama_index.core.schema import BaseComponent, BaseNode, Document
from llama_index.core.utils import get_tqdm_iterable
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rag_embed.errors import AlignmentError, InputError
from rag_embed.llamaindex.arguments import PARSER_WORDS, take_arguments
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.llamaindex.given_spans import SpanNodeParser
from rag_embed.llamaindex.inner_parser import configure_inner
from rag_embed.llamaindex.pages import find_split_file
from rag_embed.llamaindex.pickling import make_state
from rag_embed.llamaindex.placement import check_documents, parse_in_place

logger = logging.getLogger(__name__)

# LlamaIndex's splitters unpickle a tiktoken tokenizer in worker processes, which downloads its table unless
# this variable is set; offline the pool then waits for ever. The table ships with llama-index-core.
os.environ.setdefault(
    "TIKTOKEN_CACHE_DIR", str(Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache")
)

_PARSERS: dict[str, type[NodeParser]] = {
    **all_node_parsers,
    SemanticSplitterNodeParser.class_name(): SemanticSplitterNodeParser,
    SpanNodeParser.class_name(): SpanNodeParser,
}


class LateChunkingNodeParser(NodeParser):
    """Wraps a node parser; its chunks keep the exact place they have in their document.

    Every node gets `start_char_idx` and `end_char_idx` such that the document's text at that span is the
    node's text, an id that depends on nothing but document id, position and text, and a stamp from which
    `ContextualEmbedding` rebuilds the document. Chunks that are nothing but white space make no node, as an
    index leaves them out too.

    A parser that rewrites text (JSON, HTML, tables, headings put before chunks) makes chunks that stand
    nowhere in their document. They are read in the context of each other, in their order, have no
    `start_char_idx`, and a warning says so.

    The arguments of LlamaIndex's `SentenceSplitter` (chunk_size, chunk_overlap, ...) are taken instead of a
    `node_parser` and make one; `include_metadata` and `include_prev_next_rel` are handed to it.

    Attributes:
        node_parser: Decides where to cut; by default LlamaIndex's `SentenceSplitter`.
        embed_model: If given, nodes leave the parser with their vectors, which indexes and pipelines then
            keep. Without one, `VectorStoreIndex.from_documents(embed_model=...)` gives its own, which stays;
            so does `Settings.embed_model`, where the parser is `Settings.node_parser`.

    Raises:
        InputError: It is handed chunks instead of documents, or another model than its own to embed with.
        EmptySpanError, EmptyTextError: See `ContextualEmbedding`; only with `embed_model`.
    """

    node_parser: SerializeAsAny[NodeParser] = Field(default_factory=SentenceSplitter)
    embed_model: SerializeAsAny[BaseEmbedding] | None = None

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "LateChunkingNodeParser"

    @model_validator(mode="before")
    @classmethod
    def _load_parts(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        parts = {name: _revive(value) for name, value in given.items() if not _is_serialised_function(value)}
        return take_arguments(cls, configure_inner(parts), PARSER_WORDS)

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
        check_documents(nodes, type(self.node_parser).__name__)
        self._adopt(kwargs.get("embed_model"))
        if file := find_split_file(nodes):
            logger.warning(
                "the pages of %s are documents of their own, each read without the others; "
                "join_pages(documents) makes one of them",
                file,
            )
        result: list[BaseNode] = []
        rewritten: list[AlignmentError] = []
        for document in get_tqdm_iterable(nodes, show_progress, "Parsing documents"):
            chunks, error = parse_in_place(self.node_parser, document)
            result += chunks
            rewritten += [error] if error else []
        if rewritten:
            logger.warning(
                "%s rewrites the text of %d of %d documents, so that their chunks are read in the context of "
                "each other and have no start_char_idx; the first is %s",
                *(type(self.node_parser).__name__, len(rewritten), len(nodes), rewritten[0]),
            )
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

    def _adopt(self, offered: object) -> None:
        """Keep the model that an index embeds with, which it would hand the chunks to as mere strings.

        An index tells its model when it is built from documents, and not when one is inserted later.
        """
        global_parsers = [Settings._node_parser, *(Settings._transformations or [])[-1:]]
        if offered is None and any(parser is self for parser in global_parsers):
            offered = Settings._embed_model
        if not isinstance(offered, ContextualEmbedding):
            return
        if self.embed_model is None:
            self.embed_model = offered
        elif (
            isinstance(self.embed_model, ContextualEmbedding)
            and (own := self.embed_model.fingerprint()) != offered.fingerprint()
        ):
            raise InputError(
                f"the parser embeds with {own!r} and the index asks with {offered.fingerprint()!r}; expected "
                "one model. Give both the same embed_model=, and each index a parser of its own"
            )


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
