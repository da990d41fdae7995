"""What may be added: whatever would not come back as it is, is refused before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from rag_embed.errors import FingerprintMismatchError, InputError
from rag_embed.llamaindex import LateChunkingNodeParser
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.qdrant.values import MAX_LEVELS
from tests.qdrant_cases import make_nodes

CANONICAL = "0b5ad21c-7a0b-4f2e-9d7a-0123456789ab"
SPELLINGS = [
    CANONICAL,
    CANONICAL.upper(),
    CANONICAL.replace("-", ""),
    f"{{{CANONICAL}}}",
    f"urn:uuid:{CANONICAL}",
]


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantChunkStore]:
    place: dict[str, Any] = {"location": ":memory:"} if request.param == "memory" else {"path": tmp_path}
    with QdrantChunkStore("docs", **place) as opened:
        yield opened


def nested(levels: int, *, by: type) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = {"x": value} if by is dict else [value]
    return value


@pytest.mark.parametrize("by", [dict, list])
def test_metadata_that_could_not_be_read_back_are_refused(store: QdrantChunkStore, by: type) -> None:
    store.add(make_nodes(2, prefix="fine"))
    for levels in (MAX_LEVELS + 1, 127, 5_000):
        with pytest.raises(
            InputError, match=r"metadata 'deep' of node 'bad-0' is nested more than 64 levels"
        ):
            store.add([*make_nodes(1), *make_nodes(1, prefix="bad", deep=nested(levels, by=by))])
    assert store.count() == 2
    deepest = nested(MAX_LEVELS - 1, by=by)
    store.add(make_nodes(1, prefix="deep", deep=deepest))
    assert {node.node_id: node.metadata.get("deep") for node in store.get_nodes()}["deep-0"] == deepest
    store.delete("doc")
    assert store.count() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_would_turn_into_null_are_refused(store: QdrantChunkStore, value: float) -> None:
    for place in (value, [1.0, value], {"deep": {"er": [value]}}):
        with pytest.raises(InputError, match=r"metadata 'score' of node 'node-0' holds .*come back as None"):
            store.add(make_nodes(1, score=place))
    node = make_nodes(1)[0]
    node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="doc", metadata={"score": value})
    with pytest.raises(InputError, match=r"metadata 'score' of what node 'node-0' says of 'doc' holds"):
        store.replace_document("doc", [node])
    assert store.info() is None


def test_a_uuid_is_one_chunk_however_it_is_spelled(store: QdrantChunkStore) -> None:
    nodes = [TextNode(id_=id_, text=id_, embedding=[1.0, 2.0]) for id_ in SPELLINGS]
    for other in nodes[1:]:
        with pytest.raises(InputError, match="spell one UUID, which names one point"):
            store.add([nodes[0], other])
    for node in nodes:
        store.add([node])
    assert [node.text for node in store.get_nodes()] == [SPELLINGS[-1]]
    assert list(store.get_vectors(SPELLINGS)) == SPELLINGS
    assert len(store.get_nodes(SPELLINGS)) == 1
    store.delete_nodes([SPELLINGS[1]])
    assert store.count() == 0


def test_a_forgotten_embed_model_is_refused_with_the_line_that_mends_it(store: QdrantChunkStore) -> None:
    """LlamaIndex embedded the chunks one by one; their stamps tell."""
    documents = [Document(text="One sentence. " * 40, doc_id="a")]
    expected = r"its text alone.*transformations=\[LateChunkingNodeParser\(embed_model=embed_model\)\]"
    with pytest.raises(FingerprintMismatchError, match=expected):
        VectorStoreIndex.from_documents(
            documents,
            transformations=[LateChunkingNodeParser()],
            embed_model=MockEmbedding(embed_dim=8),
            storage_context=StorageContext.from_defaults(vector_store=store),
        )
    assert store.info() is None


def test_lone_surrogates_in_ids_are_one_clear_error(store: QdrantChunkStore) -> None:
    node = TextNode(id_="half \ud83d", text="x", embedding=[1.0])
    with pytest.raises(InputError, match=r"the node id is 'half \\ud83d', which holds a lone surrogate"):
        store.add([node])
