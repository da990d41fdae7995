"""Chunks read alone and in their window in one pass, against transformers' own layers run text by text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from rag_embed import CharSpan, ContextualEmbedding, load_embedder, load_encoder
from rag_embed.adapter import locate_adapter, merge_adapter
from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.chunked_text import ChunkedText
from rag_embed.errors import EmptySpanError, InputError, UnsupportedModelError
from rag_embed.export import export_checkpoints
from rag_embed.modes import ALPHA
from rag_embed.passes import WindowOptions
from rag_embed.recipe import Recipe
from rag_embed.served import Server
from rag_embed.shared_layers import SharedLayers, share_layers
from tests import reference
from tests.checkpoints import tiny_bert
from tests.test_adapter import write_adapter

TEXT = (
    "Berlin is the capital of Germany. The city has a river and many people. It grew in ten years. "
    "Paris is the capital of France. Its people speak French and cook well. The river there is the Seine. "
)
SENTENCES = [CharSpan(*match.span()) for match in re.finditer(r"[^ ][^.]*[.]", TEXT)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A random adapter of the second of two layers."""
    return share_one_layer(write_adapter(tmp_path_factory.mktemp("adapter") / "upper", checkpoint))


def share_one_layer(folder: Path) -> Path:
    weights = load_file(folder / "adapter_model.safetensors")
    upper = {name: tensor for name, tensor in weights.items() if ".layer.1." in name}
    assert 0 < len(upper) < len(weights)
    save_file(upper, folder / "adapter_model.safetensors")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "shared_layers": 1}))
    return folder


@pytest.fixture(scope="module")
def layers(checkpoint: Path, adapter: Path) -> SharedLayers:
    return share_layers(load_encoder(checkpoint), locate_adapter(adapter))


@pytest.fixture(scope="module")
def embedder(checkpoint: Path, adapter: Path) -> ChunkEmbedder:
    return load_embedder(Recipe(model=checkpoint, adapter=adapter))


@torch.inference_mode()
def read_slowly(
    checkpoint: Path, adapter: Path, texts: Sequence[Sequence[int]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Both readings of the texts of one window: transformers' layers, eager attention, one text at a time."""
    plain = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    adapted = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    located = locate_adapter(adapter)
    merge_adapter(adapted, located, weights_sha256=located.base_sha256)
    lower = []
    for text in texts:
        embedded = plain.embeddings(input_ids=torch.tensor([list(text)]))
        lower.append(plain.encoder.layer[0](embedded))
    alone = [plain.encoder.layer[1](states)[0] for states in lower]
    together = adapted.encoder.layer[1](torch.cat(lower, dim=1))[0]
    return list(zip(alone, together.split([len(text) for text in texts]), strict=True))


@pytest.mark.parametrize("counts", [[3], [1], [2, 4, 1], [5, 5]])
def test_states_equal_layers_run_text_by_text(
    layers: SharedLayers, checkpoint: Path, adapter: Path, counts: list[int]
) -> None:
    generator = np.random.default_rng(len(counts))
    windows = [
        [generator.integers(5, 60, int(generator.integers(3, 12))) for _ in range(count)] for count in counts
    ]
    for window, readings in zip(windows, layers.encode(windows), strict=True):
        expected = read_slowly(checkpoint, adapter, [text.tolist() for text in window])
        for reading, (alone, in_context) in zip(readings, expected, strict=True):
            assert (reading.alone - alone).abs().max() < 1e-5
            assert (reading.in_context - in_context).abs().max() < 1e-5
            assert len(window) == 1 or (reading.alone - reading.in_context).abs().max() > 1e-2


def slow_vectors(
    checkpoint: Path,
    adapter: Path,
    windows: Sequence[Sequence[int]],
    ids: Sequence[Sequence[int]],
    head: list[int],
) -> list[reference.Vector]:
    """Blended vectors of chunks whose tokens are given, in windows that are given, by plain arithmetic."""
    late: dict[int, reference.Vector] = {}
    isolated: dict[int, reference.Vector] = {}
    for window in windows:
        texts = [[2, *ids[chunk], 3] for chunk in window]
        readings = read_slowly(checkpoint, adapter, ([[2, *head, 3]] if head else []) + texts)
        for chunk, (alone, in_context) in zip(window, readings[-len(window) :], strict=True):
            isolated[chunk] = reference.mean(alone.double().tolist())
            late[chunk] = reference.mean(in_context[1:-1].double().tolist())
    order = range(len(ids))
    in_a_row = [(i, i + 1) for i in order]
    return reference.blend([late[i] for i in order], [isolated[i] for i in order], ALPHA, in_a_row)


def test_vectors_equal_the_arithmetic(embedder: ChunkEmbedder, checkpoint: Path, adapter: Path) -> None:
    """Two windows of 40 tokens, a title as a text of its own before both."""
    encoder = embedder.encoder
    assert (encoder.prefix_ids, encoder.suffix_ids) == ([2], [3])
    ids = [encoder.tokenize(TEXT[span.start : span.end]).ids.tolist() for span in SENTENCES]
    head = encoder.tokenize("title: cities\n\n").ids.tolist()
    layers = embedder.shared_layers
    assert layers is not None
    seen: list[list[list[int]]] = []
    encode = layers.encode

    def spy(windows, **options):  # type: ignore[no-untyped-def]
        windows = [list(window) for window in windows]
        seen.extend([[text.tolist() for text in window] for window in windows])
        return encode(windows, **options)

    layers.encode = spy  # type: ignore[method-assign]
    try:
        found = embedder.embed_chunks(TEXT, SENTENCES, metadata={"title": "cities"})
    finally:
        del layers.encode
    texts = [[2, *each, 3] for each in ids]
    assert all(window[0] == [2, *head, 3] for window in seen)
    assert [text for window in seen for text in window[1:]] == texts
    assert all(sum(map(len, window)) <= 40 for window in seen) and len(seen) >= 2
    windows = [[texts.index(text) for text in window[1:]] for window in seen]
    expected = slow_vectors(checkpoint, adapter, windows, ids, head)
    assert (found - torch.tensor(expected)).abs().max() < 1e-5


def test_one_document_has_the_same_bits_in_any_company(embedder: ChunkEmbedder) -> None:
    documents = [
        ChunkedText(TEXT, SENTENCES),
        ChunkedText("A short one.", [CharSpan(0, 12)]),
        ChunkedText(TEXT * 20, [CharSpan(200 * i, 200 * i + 190) for i in range(18)]),
    ]
    together = list(embedder.embed_documents(documents * 3))
    for number, document in enumerate(documents):
        (alone,) = embedder.embed_documents([document])
        assert all(torch.equal(alone, together[number + 3 * k]) for k in range(3))


def test_late_is_the_half_in_context(checkpoint: Path, adapter: Path) -> None:
    """Of a document with two chunks, of which a blend leaves no neighbour out."""
    text, two = TEXT[: SENTENCES[1].end], SENTENCES[:2]
    late = load_embedder(Recipe(model=checkpoint, adapter=adapter, strategy="late"))
    whole = load_embedder(Recipe(model=checkpoint, adapter=adapter, strategy="blend", alpha=1.0))
    assert (late.embed_chunks(text, two) - whole.embed_chunks(text, two)).abs().max() < 1e-6


def test_the_isolated_half_is_the_isolated_vector(checkpoint: Path, adapter: Path) -> None:
    """With no share of context it is moved along the document's shift, and nothing else."""
    isolated = load_embedder(Recipe(model=checkpoint, strategy="isolated"))
    late = load_embedder(Recipe(model=checkpoint, adapter=adapter, strategy="late"))
    alone, in_context = isolated.embed_chunks(TEXT, SENTENCES), late.embed_chunks(TEXT, SENTENCES)
    none = load_embedder(Recipe(model=checkpoint, adapter=adapter, alpha=0.0))
    moved = alone + (in_context - alone).mean(dim=0)
    expected = moved / moved.norm(dim=1, keepdim=True)
    assert (none.embed_chunks(TEXT, SENTENCES) - expected).abs().max() < 1e-5


def test_overlapping_and_long_chunks(embedder: ChunkEmbedder) -> None:
    """Chunks of 1,024 with an overlap of 200 are what people have; here in proportion to 40 tokens."""
    text = TEXT * 3
    spans = [CharSpan(start, min(start + 400, len(text))) for start in range(0, len(text) - 200, 300)]
    vectors, tokens = next(embedder.embed_with_tokens([ChunkedText(text, spans)]))
    assert vectors.shape == (len(spans), 32)
    assert (vectors.norm(dim=1) - 1).abs().max() < 1e-5
    whole = embedder.encoder.tokenize(text)
    for span, kept in zip(spans, tokens, strict=True):
        inside = sum(
            start < span.end and end > span.start for start, end in zip(whole.starts, whole.ends, strict=True)
        )
        assert kept is not None
        assert len(kept) == -(-inside // 4)  # four neighbours make one vector


def test_kept_tokens_are_read_again_out_of_their_windows_alone(embedder: ChunkEmbedder) -> None:
    document = ChunkedText(TEXT, SENTENCES)
    vectors, tokens = next(embedder.embed_with_tokens([document]))
    assert torch.equal(vectors, next(embedder.embed_documents([document])))
    layers = embedder.shared_layers
    assert layers is not None
    before = layers.encoder.token_count
    embedder.embed_chunks(TEXT, SENTENCES)
    whole = layers.encoder.token_count - before
    for row in range(len(SENTENCES)):
        before = layers.encoder.token_count
        (found,) = embedder.read_tokens(document, [row])
        assert np.array_equal(found, tokens[row])
        assert layers.encoder.token_count - before <= whole
    assert [len(each) for each in embedder.read_tokens(document, [3, 1])] == [len(tokens[3]), len(tokens[1])]
    with pytest.raises(EmptySpanError):
        embedder.read_tokens(
            ChunkedText(TEXT + "\u200b", [*SENTENCES, CharSpan(len(TEXT), len(TEXT) + 1)]), [6]
        )


def test_text_between_chunks_is_context_too(embedder: ChunkEmbedder) -> None:
    """The first sentence is in no chunk; what it says still decides about the second and nothing else."""
    (found,) = embedder.embed_chunks(TEXT, SENTENCES[1:2])
    (other,) = embedder.embed_chunks(TEXT.replace("Berlin", "Paris"), SENTENCES[1:2])
    (alone,) = embedder.embed_chunks(TEXT[34:71], [CharSpan(0, 37)])
    assert (found - other).abs().max() > 1e-3
    assert (found - alone).abs().max() > 1e-2


def test_a_chunk_without_tokens_is_embedded_alone(embedder: ChunkEmbedder) -> None:
    text = TEXT + "\u200b"
    spans = [*SENTENCES, CharSpan(len(TEXT), len(text))]
    found = embedder.embed_chunks(text, spans)
    assert (found[:6] - embedder.embed_chunks(TEXT, SENTENCES)).abs().max() < 1e-6
    assert (found[6] - embedder.embed_texts(["\u200b"])[0]).abs().max() < 1e-6
    only = embedder.embed_chunks("\u200b", [CharSpan(0, 1)])
    assert (only[0] - found[6]).abs().max() < 1e-6


def test_queries_need_no_second_model(checkpoint: Path, adapter: Path) -> None:
    first = load_embedder(Recipe(model=checkpoint, adapter=adapter))
    second = load_embedder(Recipe(model=checkpoint, adapter=adapter, alpha=0.3))
    assert first.context_encoder is first.encoder
    assert "shared_layers" not in vars(first)
    first.embed_query("capital of germany")
    assert "shared_layers" not in vars(first)
    assert first.shared_layers is second.shared_layers


def test_servers_and_exports_refuse_it(tmp_path: Path, checkpoint: Path, adapter: Path) -> None:
    recipe = Recipe(model=checkpoint, adapter=adapter, engine="vllm")
    with pytest.raises(InputError, match=r"shares layers .* which a server of token states cannot"):
        load_embedder(recipe, server=Server("vllm", "http://127.0.0.1:9"))
    with pytest.raises(UnsupportedModelError, match=r"shares layers .* engines cannot"):
        export_checkpoints(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shared", [2, 7])
def test_an_adapter_that_leaves_no_layer_is_refused(tmp_path: Path, checkpoint: Path, shared: int) -> None:
    folder = share_one_layer(write_adapter(tmp_path / "upper", checkpoint))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "shared_layers": shared}))
    embedder = load_embedder(Recipe(model=checkpoint, adapter=folder))
    with pytest.raises(UnsupportedModelError, match=r"0 of 2 layers .* expected at least one"):
        embedder.embed_chunks(TEXT, SENTENCES)


@pytest.mark.parametrize("shared", [-1, "many", None])
def test_a_damaged_card_is_refused(tmp_path: Path, checkpoint: Path, shared: object) -> None:
    folder = write_adapter(tmp_path / "upper", checkpoint)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "shared_layers": shared}))
    with pytest.raises(UnsupportedModelError, match="damaged"):
        locate_adapter(folder)


def test_llamaindex_gives_the_same_vectors(checkpoint: Path, adapter: Path, embedder: ChunkEmbedder) -> None:
    from llama_index.core import Document
    from llama_index.core.node_parser import SentenceSplitter

    from rag_embed import LateChunkingNodeParser

    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=30, chunk_overlap=5))
    nodes = parser([Document(text=TEXT * 3, metadata={"title": "cities"}, id_="a")])
    model = ContextualEmbedding(model=str(checkpoint), adapter=str(adapter))
    found = torch.tensor([node.embedding for node in model(nodes)])
    spans = [CharSpan(node.start_char_idx, node.end_char_idx) for node in nodes]
    assert torch.equal(found, embedder.embed_chunks(TEXT * 3, spans, metadata={"title": "cities"}))


def test_windows_are_those_of_the_adapter(embedder: ChunkEmbedder) -> None:
    assert embedder.recipe.window_options == WindowOptions(40, 32, 64)
