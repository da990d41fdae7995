"""Multi-vector checkpoints through LlamaIndex and Qdrant: vectors of the head's size, the peer's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeWithScore
from sentence_transformers import MultiVectorEncoder

from rag_embed.errors import FingerprintMismatchError
from rag_embed.evaluation.cache import VectorCache
from rag_embed.evaluation.sets import EvalDocument
from rag_embed.evaluation.vectors import Vectors
from rag_embed.late_chunking import Strategy
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.max_sim import max_sim, to_units
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.spans import CharSpan
from rag_embed.stage_scores import TOKEN_SCORE, TOKENS_FROM
from rag_embed.stamp import tokens_of
from tests.checkpoints_multi_vector import write_pylate

TEXT = (
    "Berlin is the capital of Germany. It has a river, bridges and people. This city is with its river. " * 3
)
QUERY = "which river has bridges?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pylate(tmp_path_factory.mktemp("colbert"))


def model_of(folder: Path, strategy: Strategy, **options: object) -> ContextualEmbedding:
    return ContextualEmbedding(
        model=str(folder), device="cpu", dtype="float32", strategy=strategy, token_neighbours=1, **options
    )


def index(store: QdrantChunkStore, model: ContextualEmbedding) -> list[NodeWithScore]:
    """Write two documents and ask for all of their chunks."""
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=14, chunk_overlap=0), embed_model=model
    )
    texts = {"first": TEXT, "second": TEXT[34:150]}
    store.add(parser([Document(text=text, id_=name) for name, text in texts.items()]))
    retriever = VectorStoreIndex.from_vector_store(store, embed_model=model).as_retriever(similarity_top_k=99)
    return list(retriever.retrieve(QUERY))


def rerank(
    store: QdrantChunkStore, model: ContextualEmbedding, found: list[NodeWithScore]
) -> dict[str, float]:
    hits = ListwiseRerank(embed_model=model, vector_store=store, top_n=99).postprocess_nodes(
        found, query_str=QUERY
    )
    return {hit.node.node_id: hit.node.metadata[TOKEN_SCORE] for hit in hits}


def test_isolated_chunks_are_compared_in_the_store_as_the_peer_compares_them(folder: Path) -> None:
    """Ordinary ColBERT: sentence-transformers' mean MaxSim of the chunks' texts, within half precision."""
    model, peer = model_of(folder, "isolated"), MultiVectorEncoder(str(folder), device="cpu")
    with QdrantChunkStore("docs", location=":memory:", tokens="float16") as store:
        found = index(store, model)
        scores = rerank(store, model, found)
    asked = peer.encode_query([QUERY])
    texts = {hit.node.node_id: hit.node.get_content(metadata_mode=MetadataMode.EMBED) for hit in found}
    assert len(texts) > 4
    for node_id, text in texts.items():
        total = float(peer.similarity(asked, peer.encode_document([text]))[0, 0])
        assert scores[node_id] == pytest.approx(total / len(asked[0]), abs=2e-3)


@pytest.mark.parametrize("strategy", ["isolated", "late", "blend"])
def test_stored_and_read_again_token_vectors_say_the_same(folder: Path, strategy: Strategy) -> None:
    model = model_of(folder, strategy)
    with (
        QdrantChunkStore("docs", location=":memory:", tokens="float16") as store,
        QdrantChunkStore("docs", location=":memory:") as bare,
    ):
        found, same = index(store, model), index(bare, model)
        assert all(len(hit.node.embedding or model.get_query_embedding(QUERY)) == 12 for hit in found)
        again = ListwiseRerank(embed_model=model, vector_store=bare, top_n=99).postprocess_nodes(
            same, query_str=QUERY
        )
        assert {hit.node.metadata[TOKENS_FROM] for hit in again} == {"read in its document"}
        stored = rerank(store, model, found)
        assert len(stored) == len(found) > 4
        assert {h.node.node_id: h.node.metadata[TOKEN_SCORE] for h in again} == pytest.approx(
            stored, abs=2e-3
        )


def test_a_chunk_read_alone_is_what_isolated_chunks_keep(folder: Path) -> None:
    model = model_of(folder, "isolated")
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=14, chunk_overlap=0), embed_model=model
    )
    for node in parser([Document(text=TEXT, metadata={"title": "Berlin"})]):
        (alone,) = model.read_tokens([node])
        kept = tokens_of(node)
        assert kept is not None and kept.shape == alone.shape and kept.shape[1] == 12
        assert np.abs(to_units(kept) - to_units(alone)).max() < 0.02  # int8


def test_a_collection_of_another_head_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_pylate(tmp_path, skiplist_words=[])
    with QdrantChunkStore("docs", location=":memory:", tokens="float16") as store:
        found = index(store, model_of(folder, "late"))
        with pytest.raises(FingerprintMismatchError):
            rerank(store, model_of(other, "late"), found)


def test_evaluation_takes_the_size_of_token_vectors_from_the_head(folder: Path) -> None:
    """A chunk that no window reads has one vector of that size, similar to nothing."""
    model = model_of(folder, "late")
    text = "the river\u200b with people"
    spans = [CharSpan(0, 9), CharSpan(9, 10), CharSpan(10, len(text))]
    vectors = Vectors([EvalDocument("d", "", text, spans)], cache=VectorCache(None))
    tokens = vectors.tokens(model, with_title=False)
    assert [each.shape[1] for each in tokens] == [12, 12, 12]
    assert vectors.chunks(model, with_title=False).shape == (3, 12)
    (asked,) = vectors.query_tokens(model, [QUERY])
    assert asked is not None and max_sim(asked, tokens[1]) == 0
