"""Real servers of `rag-embed export`, where the environment names any (docs/serving.md)."""

from __future__ import annotations

import os

import pytest
import torch
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter

from rag_embed import ContextualEmbedding, LateChunkingNodeParser

pytestmark = pytest.mark.slow
TEXT = "Berlin is the capital of Germany. The river Spree flows through it; undertakings abound.\n\n"
# Cosine distance of vectors whose token states lie within the probe's tolerance.
TOLERANCE = 1e-4


def embed(model: ContextualEmbedding, repeats: int) -> torch.Tensor:
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=60, chunk_overlap=0))
    nodes = model(parser([Document(text=TEXT * repeats, id_="d")]))
    return torch.tensor([*(node.embedding for node in nodes), model.get_query_embedding("Which river?")])


@pytest.mark.skipif("RAG_EMBED_VLLM_URL" not in os.environ, reason="RAG_EMBED_VLLM_URL names no vLLM server")
@pytest.mark.parametrize("strategy", ["late", "isolated", "blend"])
def test_vllm_equals_the_local_encoder(strategy: str) -> None:
    """Documents of several windows; the weights with the adapter merged where a second server is named."""
    context = os.environ.get("RAG_EMBED_VLLM_CONTEXT_URL")
    # The adapter that `rag-embed export` merges; by itself a local blend takes one that shares layers.
    options = {"strategy": strategy, "adapter": "minilm-context" if context else None, "device": "cpu"}
    served = ContextualEmbedding(
        server=os.environ["RAG_EMBED_VLLM_URL"], context_server=context, engine="vllm", **options
    )
    found, expected = embed(served, 60), embed(ContextualEmbedding(**options), 60)
    assert (1 - torch.cosine_similarity(found, expected)).max() < TOLERANCE


@pytest.mark.skipif("RAG_EMBED_TEI_URL" not in os.environ, reason="RAG_EMBED_TEI_URL names no TEI server")
@pytest.mark.parametrize("strategy", ["late", "isolated", "blend"])
def test_tei_equals_the_local_encoder(strategy: str) -> None:
    """A document of one window."""
    options = {"strategy": strategy, "adapter": None, "device": "cpu"}
    served = ContextualEmbedding(server=os.environ["RAG_EMBED_TEI_URL"], engine="tei", **options)
    found, expected = embed(served, 4), embed(ContextualEmbedding(**options), 4)
    assert (1 - torch.cosine_similarity(found, expected)).max() < TOLERANCE
