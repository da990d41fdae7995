"""On an accelerator the same vectors come out; run with RAG_EMBED_TEST_DEVICE=cuda where there is one."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from llama_index.core import Document

from rag_embed import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.max_sim import to_units
from rag_embed.stamp import tokens_of

DEVICE = os.environ.get("RAG_EMBED_TEST_DEVICE", "")
TEXT = "The shop sells bread. It rose by fifteen percent after the flood of May. " * 40

pytestmark = pytest.mark.skipif(not DEVICE, reason="RAG_EMBED_TEST_DEVICE names no device")


@pytest.mark.parametrize("strategy", ["isolated", "late", "blend"])
def test_vectors_and_token_vectors_are_those_of_the_cpu(strategy: str) -> None:
    documents = [Document(text=TEXT[: 30 + 900 * number], id_=f"d{number}") for number in range(3)]
    found = {}
    for device in ("cpu", DEVICE):
        model = ContextualEmbedding(strategy=strategy, dtype="float32", device=device)
        nodes = LateChunkingNodeParser(chunk_size=60, chunk_overlap=0).get_nodes_from_documents(documents)
        model(nodes)
        tokens = [kept for node in nodes if (kept := tokens_of(node)) is not None]
        found[device] = np.array([node.embedding for node in nodes]), tokens
    (vectors, tokens), (others, other_tokens) = found.values()
    assert np.abs(vectors - others).max() < 1e-3
    assert len(tokens) == len(other_tokens)
    for kept, other in zip(tokens, other_tokens, strict=True):
        assert (to_units(kept) * to_units(other)).sum(axis=1).min() > 0.999


def test_questions_are_those_of_the_cpu() -> None:
    models = [ContextualEmbedding(dtype="float32", device=device) for device in ("cpu", DEVICE)]
    one, other = (model.embed_query_tokens("What rose by fifteen percent?") for model in models)
    assert np.abs(one - other).max() < 1e-3
    vectors = [model.embed_query("What rose by fifteen percent?") for model in models]
    assert torch.allclose(*vectors, atol=1e-3)
