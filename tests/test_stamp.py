"""The stamp survives the way through a node's link to its document, and no model is shown it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from rag_embed.errors import InputError
from rag_embed.llamaindex.context import stamp_node
from rag_embed.stamp import STAMP_KEY, ChunkStamp, hash_text

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
stamps = st.builds(
    ChunkStamp,
    context=texts,
    start=st.integers(0, 10**9),
    end=st.integers(0, 10**9),
    before=texts,
    after=texts,
    fingerprint=st.none() | texts,
)


def node_of(**source: object) -> TextNode:
    link = RelatedNodeInfo(node_id="d", metadata=source)
    return TextNode(text="x", metadata={"title": "t"}, relationships={NodeRelationship.SOURCE: link})


@given(stamps)
def test_a_stamp_comes_back_as_it_was(stamp: ChunkStamp) -> None:
    node = node_of(title="t")
    stamp_node(node, stamp)
    assert ChunkStamp.from_node(node) == stamp
    assert (node.ref_doc_id, node.metadata) == ("d", {"title": "t"})
    # Also through the JSON of a store's payload.
    assert ChunkStamp.from_node(metadata_dict_to_node(node_to_metadata_dict(node))) == stamp


def test_nodes_that_share_a_link_keep_stamps_of_their_own() -> None:
    first = node_of()
    second = first.model_copy(update={"id_": "other"})
    stamp_node(first, ChunkStamp("c", 0, 1))
    assert ChunkStamp.from_node(second) is None


def test_a_node_of_no_document_can_be_stamped() -> None:
    node = TextNode(text="x")
    stamp_node(node, ChunkStamp("c", 0, 1))
    assert ChunkStamp.from_node(node) == ChunkStamp("c", 0, 1)


@pytest.mark.parametrize("mode", MetadataMode)
def test_no_metadata_mode_shows_the_stamp(mode: MetadataMode) -> None:
    node = node_of()
    plain = node.get_content(metadata_mode=mode)
    stamp_node(node, ChunkStamp("c", 0, 1))
    assert node.get_content(metadata_mode=mode) == plain


def test_nodes_without_stamp() -> None:
    assert ChunkStamp.from_node(TextNode(text="x")) is None
    assert ChunkStamp.from_node(node_of(title="x")) is None


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", "3", "{}", '{"context": "a", "start": 1, "end": 2, "unknown": 3}', 7]
)
def test_a_stamp_of_another_make_is_refused(text: object) -> None:
    message = r"'rag_embed' in the node's source holds .*, not a stamp of this version of rag-embed; parse"
    with pytest.raises(InputError, match=message):
        ChunkStamp.from_node(node_of(**{STAMP_KEY: text}))


def test_texts_are_named_by_their_content() -> None:
    assert hash_text("abc") == "ba7816bf8f01cfea414140de5dae2223"
    assert hash_text("abc") != hash_text("abc ")
    assert len(hash_text("\ud800 lone surrogate")) == 32
