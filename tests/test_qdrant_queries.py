"""What each query mode takes of `vector_store_kwargs`: all else is refused, and says which mode takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from qdrant_client import models

from rag_embed.errors import InputError
from rag_embed.llamaindex.context import stamp_node
from rag_embed.max_sim import TokenForm
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.stamp import ChunkStamp
from tests.qdrant_cases import DIM, make_nodes

MODES = ("default", "hybrid", "sparse", "text_search", "mmr")
TOKENS = [[1.0] * DIM, [0.5] * DIM]
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "qdrant_filters": ({"qdrant_filters": models.Filter(must=[])}, set(MODES)),
    "search_params": ({"search_params": {"hnsw_ef": 9}}, {"default", "hybrid", "mmr"}),
    "query_tokens": ({"query_tokens": TOKENS}, {"default", "hybrid"}),
    "token_weight": ({"token_weight": 0.5, "query_tokens": TOKENS}, {"default", "hybrid"}),
    "fusion": ({"fusion": "rrf"}, {"hybrid"}),
    "mmr_threshold": ({"mmr_threshold": 0.5}, {"mmr"}),
    "mmr_prefetch_k": ({"mmr_prefetch_k": 4}, {"mmr"}),
    "mmr_prefetch_factor": ({"mmr_prefetch_factor": 2}, {"mmr"}),
}
"""Each option with what it needs beside it, and the modes that take it."""


@pytest.fixture(scope="module")
def store() -> Iterator[QdrantChunkStore]:
    nodes = make_nodes(6)
    for number, node in enumerate(nodes):
        tokens = TokenForm("float16", 1).keep(torch.eye(DIM)[: number + 1]).numpy()
        stamp_node(node, ChunkStamp("0" * 32, number, number + 1, fingerprint="f"), tokens=tokens)
    with QdrantChunkStore("docs", location=":memory:", lexical=True, tokens=True) as made:
        made.add(nodes)
        yield made


def ask(mode: str) -> VectorStoreQuery:
    return VectorStoreQuery(
        query_embedding=[1.0] * DIM, query_str="text 3", similarity_top_k=3, mode=VectorStoreQueryMode(mode)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_mode_takes_an_option_or_says_which_modes_do(store: QdrantChunkStore, name: str, mode: str) -> None:
    options, takers = OPTIONS[name]
    if mode in takers:
        assert len(store.query(ask(mode), **options).ids) == 3
        return
    expected = " or ".join(taker.upper() for taker in MODES if taker in takers)
    alone = {name: options[name]}
    message = f"query mode {mode.upper()} takes no {name}; expected it with mode {expected}. Ask in such"
    with pytest.raises(InputError, match=message):
        store.query(ask(mode), **alone)
    with pytest.raises(InputError, match=message):
        asyncio.run(store.aquery(ask(mode), **alone))


@pytest.mark.parametrize("mode", MODES)
def test_an_option_that_is_none_is_not_given(store: QdrantChunkStore, mode: str) -> None:
    found = store.query(ask(mode), **dict.fromkeys(OPTIONS))
    assert found.ids == store.query(ask(mode)).ids


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("default", {"token_weight": 0.5}, "token_weight was given without query_tokens"),
        ("hybrid", {"token_weight": 0.5}, "token_weight was given without query_tokens"),
        (
            "mmr",
            {"mmr_prefetch_k": 4, "mmr_prefetch_factor": 2},
            "mmr_prefetch_k and mmr_prefetch_factor were both given",
        ),
    ],
)
def test_what_another_option_decides_is_refused(
    store: QdrantChunkStore, mode: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        store.query(ask(mode), **options)


@pytest.mark.parametrize("mode", MODES)
def test_llamaindexs_retriever_gives_what_each_mode_takes(mode: str) -> None:
    """It fills alpha, sparse_top_k and the like of every query, whatever the mode."""
    embed = MockEmbedding(embed_dim=DIM)
    documents = [Document(text=f"harbour number {number}", id_=f"d{number}") for number in range(4)]
    with QdrantChunkStore("docs", location=":memory:", lexical=True) as store:
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(documents, embed_model=embed, storage_context=context)
        for options in ({}, {"mmr_threshold": 0.3}) if mode == "mmr" else ({},):
            retriever = index.as_retriever(
                similarity_top_k=2,
                alpha=0.5,
                sparse_top_k=2,
                hybrid_top_k=2,
                vector_store_query_mode=mode,
                vector_store_kwargs=options,
            )
            assert len(retriever.retrieve("harbour number")) == 2
            assert len(asyncio.run(retriever.aretrieve("harbour number"))) == 2
