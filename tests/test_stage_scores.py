"""What results say of their stages is in their metadata, and no model is shown it."""

from __future__ import annotations

from llama_index.core.schema import MetadataMode, TextNode

from rag_embed.stage_scores import DENSE_SCORE, TOKEN_SCORE, with_hidden_metadata


def test_added_metadata_are_hidden_once_and_the_node_is_left_alone() -> None:
    node = TextNode(text="a", metadata={"title": "T"}, excluded_llm_metadata_keys=["path"])
    before = node.to_dict()
    once = with_hidden_metadata(node, {DENSE_SCORE: 0.5})
    twice = with_hidden_metadata(once, {DENSE_SCORE: 0.25, TOKEN_SCORE: 0.75})
    assert node.to_dict() == before
    assert twice.metadata == {"title": "T", DENSE_SCORE: 0.25, TOKEN_SCORE: 0.75}
    assert twice.excluded_llm_metadata_keys == ["path", DENSE_SCORE, TOKEN_SCORE]
    assert twice.excluded_embed_metadata_keys == [DENSE_SCORE, TOKEN_SCORE]
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert twice.get_content(metadata_mode=mode) == node.get_content(metadata_mode=mode)
