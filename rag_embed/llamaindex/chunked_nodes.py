"""LlamaIndex's nodes as the embedder takes them: a document's text and where its chunks stand in it."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import BaseNode, MetadataMode

from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.chunked_text import ChunkedText
from rag_embed.llamaindex.context import chunk_texts, group_by_context, rebuild_context, shared_metadata
from rag_embed.max_sim import KeptTokens
from rag_embed.recipe import Recipe
from rag_embed.spans import CharSpan
from rag_embed.stamp import ChunkStamp


def read_tokens(
    recipe: Recipe, embedder: ChunkEmbedder, nodes: Sequence[BaseNode], members: Sequence[BaseNode]
) -> list[KeptTokens]:
    """Read again the token vectors of some chunks of one document, see `ContextualEmbedding.read_tokens`."""
    if not members:
        return [embedder.read_tokens(make_own_document(recipe, node), [0])[0] for node in nodes]
    contexts, _ = group_by_context(members, need_stamps=True)
    ((rows),) = contexts.values()
    document = make_document(recipe, rows, rebuild_context(rows))
    places = {node.node_id: row for row, (node, _) in enumerate(rows)}
    return embedder.read_tokens(document, [places[node.node_id] for node in nodes])


def make_own_document(recipe: Recipe, node: BaseNode) -> ChunkedText:
    """Describe a chunk that is read alone."""
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    head = shared_metadata([node]) if recipe.head == "metadata" else ""
    alone = chunk_texts([node], with_shared=recipe.repeats_metadata)
    return ChunkedText(text, [CharSpan(0, len(text))], head=head, alone=alone)


def make_document(recipe: Recipe, members: Sequence[tuple[BaseNode, ChunkStamp]], text: str) -> ChunkedText:
    """Describe the chunks of one context as the embedder takes them."""
    nodes = [node for node, _ in members]
    return ChunkedText(
        text,
        [CharSpan(stamp.start, stamp.end) for _, stamp in members],
        head=shared_metadata(nodes) if recipe.head == "metadata" else "",
        alone=chunk_texts(nodes, with_shared=recipe.repeats_metadata),
    )
