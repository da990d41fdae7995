"""Hits widened to what stands around them: the document's own characters, once, within a budget."""

from __future__ import annotations

import pydoc_data.topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import Document
from llama_index.core.node_parser import MarkdownNodeParser, SentenceSplitter
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores import SimpleVectorStore
from qdrant_client import AsyncQdrantClient

from rag_embed.errors import InputError
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, NeighbourExpansion
from rag_embed.llamaindex.neighbours import WIDENED_FROM
from rag_embed.qdrant import QdrantChunkStore

TEXT = pydoc_data.topics.topics["assignment"]
SECTIONS = "# Harbour\n\nShips come.\n\nThey leave at night.\n\n# Zoo\n\nIt opens at nine.\n"


def chunks_of(store: QdrantChunkStore, document: str) -> list[TextNode]:
    nodes = [node for node in store.get_nodes() if node.ref_doc_id == document]
    return sorted(nodes, key=lambda node: node.start_char_idx)


def hits_of(*nodes: TextNode) -> list[NodeWithScore]:
    return [NodeWithScore(node=node, score=1.0 - rank / 10) for rank, node in enumerate(nodes)]


def span_of(hit: NodeWithScore) -> tuple[int, int]:
    return hit.node.start_char_idx, hit.node.end_char_idx


def test_a_hit_becomes_its_neighbours_with_what_stands_between(tiny_store: QdrantChunkStore) -> None:
    chunks = chunks_of(tiny_store, "doc")
    (hit,) = NeighbourExpansion(vector_store=tiny_store, neighbours=2).postprocess_nodes(hits_of(chunks[5]))
    assert span_of(hit) == (chunks[3].start_char_idx, chunks[7].end_char_idx)
    assert hit.node.text == TEXT[hit.node.start_char_idx : hit.node.end_char_idx]
    assert hit.node.metadata[WIDENED_FROM] == f"{chunks[5].start_char_idx}:{chunks[5].end_char_idx}"
    assert WIDENED_FROM not in hit.node.get_content(metadata_mode="llm")
    assert hit.score == 1.0
    (first,) = NeighbourExpansion(vector_store=tiny_store).postprocess_nodes(hits_of(chunks[0]))
    assert span_of(first) == (0, chunks[1].end_char_idx)


def test_the_candidates_are_not_touched(tiny_store: QdrantChunkStore) -> None:
    chunks = chunks_of(tiny_store, "doc")
    before = chunks[4].to_dict()
    NeighbourExpansion(vector_store=tiny_store).postprocess_nodes(hits_of(chunks[4]))
    assert chunks[4].to_dict() == before


@given(st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_no_chunk_is_said_twice_and_none_is_lost(
    tiny_store: QdrantChunkStore, picked: list[int], neighbours: int
) -> None:
    chunks = chunks_of(tiny_store, "doc")
    hits = hits_of(*(chunks[i] for i in picked))
    widened = NeighbourExpansion(
        vector_store=tiny_store, neighbours=neighbours, budget_tokens=100_000
    ).postprocess_nodes(hits)
    shown: list[int] = []
    for hit in widened:
        start, end = span_of(hit)
        assert hit.node.text == TEXT[start:end]
        shown += [i for i, c in enumerate(chunks) if start <= c.start_char_idx and c.end_char_idx <= end]
    assert len(shown) == len(set(shown))
    assert set(picked) <= set(shown)
    wanted = {i + step for i in picked for step in range(-neighbours, neighbours + 1)}
    assert set(shown) <= wanted & set(range(len(chunks)))


def test_the_budget_bounds_what_is_put_around_hits_and_cuts_none(tiny_store: QdrantChunkStore) -> None:
    chunks = chunks_of(tiny_store, "doc")
    hits = hits_of(chunks[2], chunks[9])

    def tokens(found: list[NodeWithScore]) -> int:
        return sum(len(get_tokenizer()(hit.node.text)) for hit in found)

    own = tokens(hits)
    tight = NeighbourExpansion(vector_store=tiny_store, neighbours=3, budget_tokens=own + 70)
    found = tight.postprocess_nodes(hits)
    assert own < tokens(found) <= own + 70 + 10  # tokens at the seams are counted chunk by chunk
    nothing = NeighbourExpansion(vector_store=tiny_store, neighbours=3, budget_tokens=1).postprocess_nodes(
        hits
    )
    assert [hit.node.text for hit in nothing] == [hit.node.text for hit in hits]


def test_documents_with_one_text_are_widened_apart(tiny_store: QdrantChunkStore) -> None:
    one, other = chunks_of(tiny_store, "doc")[1], chunks_of(tiny_store, "other")[1]
    found = NeighbourExpansion(vector_store=tiny_store).postprocess_nodes(hits_of(one, other))
    assert [hit.node.ref_doc_id for hit in found] == ["doc", "other"]
    assert found[1].node.text == TEXT[slice(*span_of(found[1]))]


def test_a_hit_becomes_its_headings_section(tiny_model: ContextualEmbedding) -> None:
    with QdrantChunkStore("docs", location=":memory:") as store:
        parser = LateChunkingNodeParser(
            node_parser=SentenceSplitter(chunk_size=40, chunk_overlap=0), embed_model=tiny_model
        )
        sections = MarkdownNodeParser()([Document(text=SECTIONS, id_="guide")])
        documents = [
            Document(text=node.text, id_=f"part-{i}", metadata={"heading": node.text.splitlines()[0]})
            for i, node in enumerate(sections)
        ]
        small = LateChunkingNodeParser(
            node_parser=SentenceSplitter(chunk_size=30, chunk_overlap=0), embed_model=tiny_model
        )
        store.add(small(documents))
        assert parser is not small
        chunks = chunks_of(store, "part-0")
        (hit,) = NeighbourExpansion(vector_store=store, to="section").postprocess_nodes(hits_of(chunks[0]))
        assert hit.node.text.startswith("# Harbour")
        assert hit.node.text.rstrip().endswith("night.")


def test_a_chunk_whose_place_nobody_knows_is_refused(tiny_store: QdrantChunkStore) -> None:
    with pytest.raises(InputError, match="has no stamp of its document"):
        NeighbourExpansion(vector_store=tiny_store).postprocess_nodes(hits_of(TextNode(text="stray")))
    assert NeighbourExpansion(vector_store=tiny_store).postprocess_nodes([]) == []


async def test_a_store_with_an_async_client_alone_is_asked_asynchronously(
    tiny_store: QdrantChunkStore,
) -> None:
    aclient = AsyncQdrantClient(location=":memory:")
    alone = QdrantChunkStore("docs", aclient=aclient)
    await alone.async_add(tiny_store.get_nodes())
    hits = hits_of(*(chunks_of(tiny_store, "doc")[number] for number in (2, 9)))
    wanted = NeighbourExpansion(vector_store=tiny_store, neighbours=2).postprocess_nodes(hits)
    expansion = NeighbourExpansion(vector_store=alone, neighbours=2)
    found = await expansion.apostprocess_nodes(hits)
    assert [hit.node.text for hit in found] == [hit.node.text for hit in wanted]
    assert all(WIDENED_FROM in hit.node.metadata for hit in found)
    with pytest.raises(InputError, match="Pass client=, or use the async method"):
        expansion.postprocess_nodes(hits)
    await aclient.close()


def test_a_store_that_keeps_no_chunks_is_refused(tiny_store: QdrantChunkStore) -> None:
    expansion = NeighbourExpansion(vector_store=SimpleVectorStore())
    with pytest.raises(InputError, match=r"is a SimpleVectorStore, which keeps no chunks; expected one that"):
        expansion.postprocess_nodes(hits_of(chunks_of(tiny_store, "doc")[0]))
