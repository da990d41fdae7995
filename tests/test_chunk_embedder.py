"""Chunk vectors without LlamaIndex, and what company does to them: nothing, bit by bit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_index.core import Document
from llama_index.core.schema import TextNode

from rag_embed import (
    CharSpan,
    ContextualEmbedding,
    LateChunkingNodeParser,
    Recipe,
    load_embedder,
    load_encoder,
)
from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.chunked_text import ChunkedText
from rag_embed.devices import Dtype
from rag_embed.encoder import Encoder
from rag_embed.errors import EmptyTextError, InputError, SpanOutOfRangeError, UnsupportedModelError
from rag_embed.late_chunking import embed_isolated
from rag_embed.passes import (
    NO_TOKENS,
    JoinedReading,
    TextReading,
    WindowOptions,
    make_window_reading,
    read,
    read_all,
)
from rag_embed.pooling import normalise
from rag_embed.spans import TokenSpan, align_tokens
from tests.precisions import PRECISIONS
from tests.test_late_chunking import DOCUMENT, sentences

STRATEGIES = ["isolated", "late", "blend"]


def embedder_of(folder: Path, **options: object) -> ChunkEmbedder:
    return load_embedder(Recipe(model=folder, dtype="float32", **options), device="cpu")


def short_documents(count: int) -> list[ChunkedText]:
    """One sentence each, some of two chunks, of many lengths."""
    texts = [
        f"Bridge {'and bridge ' * (n % 7)}number {n} is {n * 3} metres long. It is red." for n in range(count)
    ]
    return [
        ChunkedText(text, sentences(text) if n % 3 else [CharSpan(0, len(text))], head="title: bridges\n\n")
        for n, text in enumerate(texts)
    ]


# ---------------------------------------------------------------- what an index holds


@pytest.mark.parametrize("metadata", [{}, {"title": "Berlin", "year": 1237}])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("head", ["metadata", "none"])
def test_one_call_gives_what_an_index_holds(
    tiny_folder: Path, strategy: str, head: str, metadata: dict[str, object]
) -> None:
    """The whole way of LlamaIndex against one call, bit by bit."""
    options = {"strategy": strategy, "head": head, "document_prefix": "page: ", "window_tokens": 40}
    model = ContextualEmbedding(model=str(tiny_folder), device="cpu", **options)
    nodes = model(LateChunkingNodeParser()([Document(text=DOCUMENT, metadata=metadata)]))
    spans = [CharSpan(node.start_char_idx, node.end_char_idx) for node in nodes]
    embedder = embedder_of(tiny_folder, **options)
    found = embedder.embed_chunks(DOCUMENT, spans, metadata=metadata)
    assert found.tolist() == [node.embedding for node in nodes]
    assert embedder.recipe.fingerprint() == model.fingerprint()
    assert embedder.embed_query("a river").tolist() == model.get_query_embedding("a river")


def test_without_arguments_it_is_the_default_of_the_index() -> None:
    model, embedder = ContextualEmbedding(), load_embedder()
    assert embedder.recipe == replace(model.recipe)
    assert embedder.recipe.fingerprint() == model.fingerprint()
    assert embedder.shared_layers is model.embedder.shared_layers is not None
    assert embedder.context_encoder is model.context_encoder is model.encoder
    late = ContextualEmbedding(strategy="late")
    assert late.embedder.shared_layers is None
    assert late.context_encoder is not late.encoder is model.encoder


def test_a_chunk_without_a_token_is_embedded_alone(
    tiny_folder: Path, tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    text = "the river \u200b and the bridge"
    spans = [CharSpan(0, 9), CharSpan(10, 11), CharSpan(12, len(text))]
    nothing = embed_isolated(tiny_encoder, [""])[0]
    for strategy in STRATEGIES:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            vectors = embedder_of(tiny_folder, strategy=strategy).embed_chunks(text, spans)
        assert torch.allclose(vectors[1], nothing, atol=1e-6)
        assert ("1 of 3 chunks have no token" in caplog.text) is (strategy != "isolated")
        whole = embedder_of(tiny_folder, strategy=strategy).embed_chunks(text, [spans[0], spans[2]])
        assert torch.allclose(vectors[[0, 2]], whole, atol=1e-6)
    assert embedder_of(tiny_folder).embed_chunks("\u200b", [CharSpan(0, 1)]).shape == (1, 32)


def test_what_does_not_fit_is_refused(tiny_folder: Path) -> None:
    embedder = embedder_of(tiny_folder)
    with pytest.raises(InputError, match="2 texts for 1 chunks; expected one text per chunk"):
        list(embedder.embed_documents([ChunkedText("a", [CharSpan(0, 1)], alone=["a", "b"])]))
    with pytest.raises(SpanOutOfRangeError):
        embedder.embed_chunks("a", [CharSpan(0, 2)])
    with pytest.raises(EmptyTextError, match="expected a question"):
        embedder.embed_query(" ")
    with pytest.raises(InputError, match=r"alpha is 2.0; expected"):
        Recipe(alpha=2.0)
    with pytest.raises(UnsupportedModelError, match="no native way"):
        embedder_of(tiny_folder, strategy="native").embed_chunks("a", [CharSpan(0, 1)])
    assert list(embedder.embed_documents([])) == []
    assert embedder.embed_chunks("a", []).shape == (0, 32)


# ---------------------------------------------------------------- company


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_document_has_the_same_bits_whatever_else_is_ingested(strategy: str, precision: Dtype) -> None:
    """With real weights, where the sizes of matrices decide which of a library's kernels computes them."""
    embedder = load_embedder(Recipe(strategy=strategy, dtype=precision), device="cpu")
    documents = short_documents(24)
    long = ChunkedText(DOCUMENT, sentences(DOCUMENT, 3))
    alone = {index: next(embedder.embed_documents([documents[index]])) for index in (0, 7, 8, 23)}
    together = list(embedder.embed_documents([*documents[:9], long, *documents[9:]]))
    del together[9]
    backwards = list(embedder.embed_documents(documents[::-1]))[::-1]
    for index, vectors in alone.items():
        assert torch.equal(together[index], vectors)
        assert torch.equal(backwards[index], vectors)


def test_short_documents_share_passes(tiny_folder: Path, tiny_encoder: Encoder) -> None:
    """300 sentences took 300 passes; what they cost beside plain nodes is in docs/benchmarks.md."""
    embedder = embedder_of(tiny_folder, strategy="late")
    documents = short_documents(300)
    tokens = sum(len(tiny_encoder.tokenize(document.text)) for document in documents)
    before = tiny_encoder.forward_count, tiny_encoder.token_count
    assert sum(map(len, embedder.embed_documents(documents))) == sum(len(doc.spans) for doc in documents)
    assert tiny_encoder.forward_count - before[0] < 100
    assert tiny_encoder.token_count - before[1] < 3 * tokens


def test_nodes_of_short_documents_share_passes_too(tiny_folder: Path) -> None:
    model = ContextualEmbedding(model=str(tiny_folder), device="cpu", strategy="late")
    documents = [Document(text=document.text, id_=str(n)) for n, document in enumerate(short_documents(100))]
    nodes = LateChunkingNodeParser()(documents)
    before = model.encoder.forward_count
    model(nodes)
    assert model.encoder.forward_count - before < 40
    (single,) = model(LateChunkingNodeParser()(documents[41:42]))
    assert single.embedding == next(node.embedding for node in nodes if node.ref_doc_id == "41")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_documents_are_batched_passes_are_full_and_vectors_near(
    monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """What an accelerator does: as many passes as the tokens fill, whatever documents they are of."""
    embedder = load_embedder(Recipe(strategy=strategy, dtype="float32"), device="cpu")
    long = ChunkedText(DOCUMENT * 3, sentences(DOCUMENT * 3, 3))
    documents = [*short_documents(12), long, *short_documents(5), long, ChunkedText("a", [])]
    apart = list(embedder.embed_documents(documents))
    monkeypatch.setattr(Encoder, "batches_documents", True)
    encoders = {embedder.encoder, embedder.context_encoder}
    before = [(encoder.forward_count, encoder.token_count) for encoder in encoders]
    together = list(embedder.embed_documents(documents))
    for encoder, (passes, tokens) in zip(encoders, before, strict=True):
        longest = encoder.max_tokens
        most = (encoder.token_count - tokens) / (encoder.batch_tokens - longest) + 1
        assert encoder.forward_count - passes <= most
    assert [vectors.shape for vectors in together] == [vectors.shape for vectors in apart]
    assert max(float((a - b).abs().max()) for a, b in zip(together, apart, strict=True) if len(a)) < 1e-5


def test_plain_nodes_are_not_disturbed(tiny_folder: Path) -> None:
    model = ContextualEmbedding(model=str(tiny_folder), device="cpu", strategy="isolated")
    nodes = model([TextNode(text="one"), TextNode(text="two")])
    assert nodes[1].embedding == pytest.approx(model.get_text_embedding("two"), abs=1e-6)


# ---------------------------------------------------------------- readings


class Collector:
    """Keeps all states that it is shown."""

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []
        self.starts: list[int] = []

    def add(self, token_states: torch.Tensor, start: int) -> None:
        self.states.append(token_states.clone())
        self.starts.append(start)


def test_one_pass_gives_chunk_vectors_and_the_states_of_their_tokens(tiny_encoder: Encoder) -> None:
    """What late interaction keeps: the very states that are averaged, at no further forward pass."""
    tokens, spans = tiny_encoder.tokenize(DOCUMENT), sentences(DOCUMENT, 3)
    token_spans = align_tokens(DOCUMENT, tokens.starts, tokens.ends, spans)
    options, collector = WindowOptions(window_tokens=40, overlap_tokens=8), Collector()
    plain = make_window_reading(tiny_encoder, tokens.ids, token_spans, head_ids=NO_TOKENS, options=options)
    before = tiny_encoder.forward_count
    expected = read(tiny_encoder, plain)
    passes = tiny_encoder.forward_count - before
    watched = replace(plain, readers=[collector])
    found = read(tiny_encoder, watched)
    assert torch.equal(found, expected)
    assert tiny_encoder.forward_count - before == 2 * passes
    states = torch.cat(collector.states)
    assert len(states) == len(tokens)
    assert collector.starts == np.cumsum([0, *map(len, collector.states[:-1])]).tolist()
    means = torch.stack([states[span.start : span.end].mean(dim=0) for span in token_spans])
    assert float((normalise(means) - normalise(found)).abs().max()) < 1e-5


def test_readings_take_their_own_states_off_one_stream(tiny_encoder: Encoder) -> None:
    rng = np.random.default_rng(3)

    def ids(size: int) -> np.ndarray:
        return rng.integers(5, 100, size)

    def window(size: int) -> object:
        spans: Sequence[TokenSpan] = [TokenSpan(0, size), TokenSpan(size // 2, size)]
        return make_window_reading(tiny_encoder, ids(size), spans, head_ids=ids(3), options=WindowOptions())

    parts = [TextReading(ids(9), "mean"), window(200), TextReading(ids(0), "mean"), window(11), window(130)]
    joined = read(tiny_encoder, JoinedReading(parts, 32))
    apart = torch.cat([read(tiny_encoder, part) for part in parts])
    together = torch.cat(read_all(tiny_encoder, parts))
    assert joined.shape == (8, 32)
    assert float((joined - apart).abs().max()) < 1e-5
    assert float((together - apart).abs().max()) < 1e-5


def test_one_default_of_batch_tokens(tiny_folder: Path, tiny_encoder: Encoder) -> None:
    assert embedder_of(tiny_folder).encoder is tiny_encoder is load_encoder(tiny_folder, device="cpu")
