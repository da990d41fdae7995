"""Documents read back from a store: their own characters, and gaps said to be gaps."""

from __future__ import annotations

import pydoc_data.topics
import random
from itertools import pairwise

import pytest
from llama_index.core import Document
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode

from rag_embed.errors import AlignmentError, InputError, SpanOutOfRangeError
from rag_embed.llamaindex import LateChunkingNodeParser
from rag_embed.llamaindex.stored_document import StoredDocument, Stretch
from rag_embed.qdrant import QdrantChunkStore

TEXT = "\n\n  " + pydoc_data.topics.topics["assignment"] + "\n \n"


def cut(text: str, name: str = "doc", *, overlap: int = 20) -> list[BaseNode]:
    splitter = SentenceSplitter(chunk_size=60, chunk_overlap=overlap)
    return LateChunkingNodeParser(node_parser=splitter)([Document(text=text, id_=name)])


def test_a_document_comes_back_character_by_character(tiny_store: QdrantChunkStore) -> None:
    found = StoredDocument.fetch(tiny_store, "doc")
    assert found.stretches == (Stretch(0, len(TEXT), TEXT),)
    assert found.is_whole
    assert found.read(100, 250) == (Stretch(100, 250, TEXT[100:250]),)
    assert found.read(5, 5) == ()


def test_chunks_in_any_order_and_on_several_levels_give_one_text() -> None:
    inner = HierarchicalNodeParser.from_defaults(chunk_sizes=[128, 32], chunk_overlap=0)
    nodes = LateChunkingNodeParser(node_parser=inner)([Document(text=TEXT, id_="doc")])
    random.Random(0).shuffle(nodes)
    assert StoredDocument.from_chunks("doc", nodes).stretches == (Stretch(0, len(TEXT), TEXT),)


def test_missing_chunks_are_gaps_and_nothing_else_moves() -> None:
    nodes = cut(TEXT, overlap=0)
    kept = [*nodes[1:4], *nodes[6:-1]]
    found = StoredDocument.from_chunks("doc", kept)
    assert not found.is_whole
    assert [each.text is None for each in found.stretches] == [True, False, True, False]
    for each in found.stretches:
        assert each.text is None or each.text == TEXT[each.start : each.end]
    assert all(a.end == b.start for a, b in pairwise(found.stretches))
    assert isinstance(nodes[4], TextNode)
    gap = nodes[4].start_char_idx
    assert gap is not None
    inside = found.read(gap - 30, gap + 5)
    assert inside[-1] == Stretch(inside[-1].start, gap + 5, None)
    assert inside[0].text == TEXT[gap - 30 : inside[0].end]


def test_a_lost_end_is_known_to_be_lost() -> None:
    found = StoredDocument.from_chunks("doc", cut(TEXT)[:-2])
    assert len(found.stretches) == 1
    assert not found.is_whole


def test_two_versions_and_edited_chunks_are_refused() -> None:
    old, new = cut(TEXT), cut(TEXT.replace("target", "goal"))
    with pytest.raises(AlignmentError, match=r"chunks of 2 versions of document 'doc'.*again"):
        StoredDocument.from_chunks("doc", [*old[:3], *new[3:]])
    overlapping = next(node for node, after in pairwise(old) if _overlaps(node, after))
    overlapping.set_content("x" * len(overlapping.get_content()))
    with pytest.raises(AlignmentError, match="different things of its characters"):
        StoredDocument.from_chunks("doc", old)
    apart = cut(TEXT, overlap=0)
    apart[3].set_content("x" * len(apart[3].get_content()))
    assert not StoredDocument.from_chunks("doc", apart).is_whole


def _overlaps(node: BaseNode, after: BaseNode) -> bool:
    assert isinstance(node, TextNode)
    assert isinstance(after, TextNode)
    return bool(after.start_char_idx < node.end_char_idx)  # type: ignore[operator]


def test_what_is_not_there_is_said(tiny_store: QdrantChunkStore) -> None:
    with pytest.raises(InputError, match="no document 'nonesuch'"):
        StoredDocument.fetch(tiny_store, "nonesuch")
    found = StoredDocument.fetch(tiny_store, "other")
    with pytest.raises(SpanOutOfRangeError, match="has characters 0 to 700"):
        found.read(650, 701)


def test_foreign_chunks_are_placed_by_their_own_offsets_or_refused() -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    first = TextNode(text="The ferry", start_char_idx=0, relationships=source)
    second = TextNode(text="leaves.", start_char_idx=10, relationships=source)
    found = StoredDocument.from_chunks("doc", [second, first])
    assert [each.text for each in found.stretches] == ["The ferry", None, "leaves."]
    assert not found.is_whole
    with pytest.raises(InputError, match="does not say where it stands"):
        StoredDocument.from_chunks("doc", [TextNode(text="leaves.", relationships=source)])


async def test_chunks_are_counted_by_document(tiny_store: QdrantChunkStore) -> None:
    chunks = tiny_store.get_nodes()
    expected = {name: sum(node.ref_doc_id == name for node in chunks) for name in ("doc", "other")}
    assert tiny_store.count_by_document() == expected
    assert await tiny_store.acount_by_document() == expected
    assert QdrantChunkStore("none", location=":memory:").count_by_document() == {}
