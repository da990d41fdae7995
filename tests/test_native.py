"""Chunks embedded together as pplx-embed-context was trained for, against sequences put together by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document
from transformers import AutoTokenizer

from rag_embed.encoder import Encoder
from rag_embed.errors import EmptyTextError, InputError, UnsupportedModelError
from rag_embed.late_chunking import WindowOptions, embed_isolated
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.loading import load_encoder
from rag_embed.native import embed_native, make_chunk_windows
from rag_embed.profiles import locate_checkpoint
from rag_embed.spans import CharSpan
from rag_embed.vector_form import VectorForm, form_vectors
from tests import explicit_forward, reference
from tests.checkpoints import DIM, write_json
from tests.checkpoints_families import write_family

CHUNKS = [
    "Berlin is the capital of Germany.",
    "Its river is the Spree.",
    "It has many bridges.",
    "東京 is not.",
]
SEPARATOR = "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("native"), "pplx-embed-context-v1")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(folder, device="cpu", dtype="float32")


def tokenize(folder: Path, text: str) -> list[int]:
    """Special tokens spelled out in the text are ordinary characters."""
    return list(AutoTokenizer.from_pretrained(folder)(text, split_special_tokens=True)["input_ids"])


def means_by_hand(folder: Path, chunks: Sequence[str], before: Sequence[int] = ()) -> list[list[float]]:
    """Join by separator, run the written-out forward once, average between separators."""
    forward = explicit_forward.qwen_forward(folder)
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(SEPARATOR)
    sequence, spans = list(before), []
    for number, chunk in enumerate(chunks):
        if number:
            sequence.append(end)
        ids = tokenize(folder, chunk)
        spans.append((len(sequence), len(sequence) + len(ids)))
        sequence += ids
    states = forward(sequence)
    return [reference.mean(states[start:stop]) for start, stop in spans]


def units(means: Sequence[Sequence[float]]) -> list[list[float]]:
    return [reference.unit(mean) for mean in means]


def largest_difference(found: torch.Tensor, expected: object) -> float:
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


# ---------------------------------------------------------------- equal to the published way


def test_vectors_are_means_between_separators(folder: Path, encoder: Encoder) -> None:
    expected = units(means_by_hand(folder, CHUNKS))
    assert largest_difference(embed_native(encoder, CHUNKS), expected) < 1e-5
    # The card joins texts and cuts the whole into tokens: the same ids, because separators split first.
    whole = AutoTokenizer.from_pretrained(folder)(SEPARATOR.join(CHUNKS))["input_ids"]
    assert len(whole) == sum(len(tokenize(folder, chunk)) for chunk in CHUNKS) + len(CHUNKS) - 1


def test_a_query_is_a_document_of_one_chunk(encoder: Encoder) -> None:
    alone = embed_isolated(encoder, [CHUNKS[0]])
    assert largest_difference(embed_native(encoder, [CHUNKS[0]]), alone) < 1e-6


def test_a_document_of_several_windows_keeps_its_end(folder: Path, encoder: Encoder) -> None:
    chunks = [f"River {i} is long. " * (1 + i % 2) for i in range(9)]
    lengths = [len(tokens) for tokens in encoder.tokenize_all(chunks)]
    options = WindowOptions(window_tokens=40, overlap_tokens=6)
    assert max(lengths) <= 40 < sum(lengths)
    windows = make_chunk_windows(lengths, capacity=40, overlap=6)
    assert len(windows) > 2
    expected = []
    for window in windows:
        of_window = means_by_hand(folder, chunks[window.start : window.end])
        expected += of_window[window.own_start - window.start : window.own_end - window.start]
    assert largest_difference(embed_native(encoder, chunks, options=options), units(expected)) < 1e-5


def test_a_chunk_longer_than_the_window_is_averaged_over_windows(folder: Path, encoder: Encoder) -> None:
    forward = explicit_forward.qwen_forward(folder)
    long = "The river of the city is the Spree, and it has bridges. " * 5
    ids = tokenize(folder, long)
    options = WindowOptions(window_tokens=40, overlap_tokens=6)
    assert len(ids) > 2 * 40
    states = []
    for start, end, own_start, own_end in reference.windows(len(ids), 40, 6):
        states += forward(ids[start:end])[own_start - start : own_end - start]
    found = embed_native(encoder, ["Berlin.", long, "Bridges."], options=options)
    expected = [
        *means_by_hand(folder, ["Berlin."]),
        reference.mean(states),
        *means_by_hand(folder, ["Bridges."]),
    ]
    assert largest_difference(found, units(expected)) < 1e-5


def test_a_head_is_a_chunk_before_the_first_and_a_prefix_is_not(folder: Path, encoder: Encoder) -> None:
    found = embed_native(encoder, CHUNKS, head="Cities")
    assert largest_difference(found, units(means_by_hand(folder, ["Cities", *CHUNKS])[1:])) < 1e-5
    found = embed_native(encoder, CHUNKS, prefix="[D] ")
    expected = means_by_hand(folder, CHUNKS, before=tokenize(folder, "[D] "))
    assert largest_difference(found, units(expected)) < 1e-5


def test_version_2_has_prefixes_and_a_separator_that_is_no_special_token(tmp_path: Path) -> None:
    """On v1's architecture, whose config may say what v2's says; v2's own architecture is refused."""
    folder = write_family(tmp_path, "pplx-embed-context-v1")
    config = json.loads((folder / "config.json").read_text())
    said = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "boundary_marker": "<|chunk_sep|>"}
    write_json(folder / "config.json", config | said)
    model = ContextualEmbedding(
        model=str(folder), strategy="native", device="cpu", dtype="float32", head="none"
    )
    encoder = model.encoder
    marker = encoder.tokenize_template("<|chunk_sep|>").tolist()
    assert len(marker) == 1
    assert not set(marker) & set(encoder.tokenize("a <|chunk_sep|> b").ids.tolist())
    forward = explicit_forward.qwen_forward(folder)
    prefix, first, second = (encoder.tokenize(text).ids.tolist() for text in ("[D] ", *CHUNKS[:2]))
    states = forward([*prefix, *first, *marker, *second])
    own = states[len(prefix) : len(prefix) + len(first)], states[-len(second) :]
    expected = units([reference.mean(part) for part in own])
    text = " ".join(CHUNKS[:2])
    spans = [CharSpan(0, len(CHUNKS[0])), CharSpan(len(CHUNKS[0]) + 1, len(text))]
    found = model.embedder.embed_chunks(text, spans)
    assert largest_difference(found, expected) < 1e-5
    query = reference.unit(reference.mean(forward(encoder.tokenize("[Q] bridges?").ids.tolist())))
    assert largest_difference(model.embed_query("bridges?"), query) < 1e-5
    write_json(folder / "config.json", config | said | {"model_type": "pplx_contextual_qwen3_5"})
    with pytest.raises(UnsupportedModelError, match=r"could not be loaded(?s:.*)was refused: remote code"):
        Encoder(locate_checkpoint(folder), device=torch.device("cpu"), dtype=torch.float32)


# ---------------------------------------------------------------- int8 and binary


def test_int8_and_binary_are_made_of_the_means_that_are_not_normalised(
    folder: Path, encoder: Encoder
) -> None:
    means = means_by_hand(folder, CHUNKS)
    codes = [[max(-128, min(127, round(127 * math.tanh(x)))) for x in mean] for mean in means]
    found = embed_native(encoder, CHUNKS, form=VectorForm(precision="int8"))
    assert torch.equal(found, found.round()) and found.dtype == torch.float32
    assert largest_difference(found, [[float(x) for x in code] for code in codes]) <= 1  # a tie of rounding
    assert float((found == torch.tensor(codes)).float().mean()) > 0.99
    signs = [[1.0 if x >= 0 else -1.0 for x in mean] for mean in means]
    assert largest_difference(embed_native(encoder, CHUNKS, form=VectorForm(precision="binary")), signs) == 0
    insisting = load_encoder(folder, device="cpu", dtype="float32", insist=["dim"])
    short = embed_native(insisting, CHUNKS, form=VectorForm(8, "int8"))
    assert torch.equal(short, found[:, :8])


def test_codes_at_their_limits() -> None:
    means = torch.tensor([[100.0, -100.0, 0.0, -0.0, 1e-9, -1e-9, 0.5]])
    codes = form_vectors(means, VectorForm(precision="int8"))
    assert codes.tolist() == [[127.0, -127.0, 0.0, 0.0, 0.0, 0.0, round(127 * math.tanh(0.5))]]
    signs = form_vectors(means, VectorForm(precision="binary"))
    assert signs.tolist() == [[1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0]]


@given(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_shorter_vectors_are_renormalised(values: list[float], dim: int) -> None:
    if not any(abs(value) > 1e-3 for value in values[:dim]):
        return
    found = form_vectors(torch.tensor([values]), VectorForm(dim))[0]
    assert largest_difference(found, reference.unit(values[:dim])) < 1e-5


# ---------------------------------------------------------------- traps


def test_separators_in_the_text_an_empty_chunk_a_long_one_and_300_in_all(encoder: Encoder) -> None:
    chunks = [f"Chunk {i} tells of {SEPARATOR} and <|im_start|> number {i}." for i in range(300)]
    chunks[7] = ""
    chunks[150] = "The long chunk has its own river. " * 40
    chunks[299] = ""
    options = WindowOptions(window_tokens=256)
    vectors = embed_native(encoder, chunks, options=options)
    assert vectors.shape == (300, DIM)
    assert bool(vectors.isfinite().all())
    assert float((vectors.norm(dim=1) - 1).abs().max()) < 1e-5
    assert len(set(map(tuple, vectors.tolist()))) == 300
    # An edit reaches the chunks that share a window with it, and only those as long as no border moves.
    edited = list(chunks)
    edited[20] = chunks[20].replace("tells of", "of tells")
    assert len(encoder.tokenize(edited[20])) == len(encoder.tokenize(chunks[20]))
    changed = embed_native(encoder, edited, options=options)
    differences = (changed - vectors).abs().amax(dim=1)
    assert differences[19] > 1e-3 and differences[21] > 1e-3
    assert float(differences[60:].max()) < 1e-5
    assert torch.equal(embed_native(encoder, chunks, options=options), vectors)


def test_separator_text_in_a_chunk_does_not_break_the_count(folder: Path, encoder: Encoder) -> None:
    chunks = [f"Berlin{SEPARATOR}Spree", "Bridges."]
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(SEPARATOR)
    assert end not in encoder.tokenize(chunks[0]).ids.tolist()
    assert largest_difference(embed_native(encoder, chunks), units(means_by_hand(folder, chunks))) < 1e-5


def test_an_empty_chunk_has_the_state_of_its_separator(folder: Path, encoder: Encoder) -> None:
    forward = explicit_forward.qwen_forward(folder)
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(SEPARATOR)
    ids = tokenize(folder, CHUNKS[0])
    first, last = forward([end, *ids]), forward([*ids, end])
    assert largest_difference(embed_native(encoder, ["", CHUNKS[0]])[0], reference.unit(first[0])) < 1e-5
    assert largest_difference(embed_native(encoder, [CHUNKS[0], ""])[1], reference.unit(last[-1])) < 1e-5
    long = "The river of the city is the Spree. " * 9
    options = WindowOptions(window_tokens=40)
    alone = embed_native(encoder, [long, "", long], options=options)
    assert largest_difference(alone[1], reference.unit(forward([end])[0])) < 1e-5
    assert embed_native(encoder, []).shape == (0, DIM)
    with pytest.raises(EmptyTextError, match="sees nothing in any of 2 chunks"):
        embed_native(encoder, ["", ""])


def test_the_window_is_bounded_although_the_tokenizer_claims_131072(folder: Path, encoder: Encoder) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 131072
    assert encoder.max_tokens == 32768
    with pytest.raises(InputError, match=r"windows of 32769 tokens; expected more than .* at most the 32768"):
        embed_native(encoder, CHUNKS, options=WindowOptions(window_tokens=32769))


@given(
    st.lists(st.integers(0, 60), max_size=40),
    st.integers(1, 50),
    st.integers(0, 12),
)
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_chunk_once(lengths: list[int], capacity: int, overlap: int) -> None:
    windows = make_chunk_windows(lengths, capacity=capacity, overlap=min(overlap, capacity // 4))
    owned = [i for w in windows for i in range(w.own_start, w.own_end)]
    assert owned == list(range(len(lengths)))
    for window in windows:
        assert window.start <= window.own_start < window.own_end <= window.end
        inside = lengths[window.start : window.end]
        assert sum(inside) + len(inside) - 1 <= capacity or len(inside) == 1
        # Filled: no neighbour would fit besides.
        for neighbour in (window.start - 1, window.end):
            if 0 <= neighbour < len(lengths):
                assert sum(inside) + len(inside) + lengths[neighbour] > capacity
    if lengths and sum(lengths) + len(lengths) - 1 <= capacity:
        assert len(windows) == 1


# ---------------------------------------------------------------- through LlamaIndex


def test_nodes_are_embedded_together(folder: Path, encoder: Encoder) -> None:
    text = "Berlin is the capital of Germany. " * 3 + "Its river is the Spree. " * 3 + "It has bridges. " * 4
    model = ContextualEmbedding(
        model=str(folder), strategy="native", device="cpu", dtype="float32", precision="int8", dim=16,
        head="none", insist=("dim",),
    )  # fmt: skip
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=24, chunk_overlap=0))
    nodes = model(parser.get_nodes_from_documents([Document(text=text)]))
    assert len(nodes) > 2
    form = VectorForm(16, "int8")
    lifted = model.encoder
    expected = embed_native(lifted, [node.text for node in nodes], form=form)
    assert torch.equal(torch.tensor([node.embedding for node in nodes]), expected)
    assert len(model.get_query_embedding("bridges?")) == 16
    given = {"model": str(folder), "strategy": "native", "head": "none"}
    others = {
        ContextualEmbedding(**{**given, **changed}).fingerprint()
        for changed in (
            {},
            {"precision": "int8"},
            {"precision": "binary"},
            {"dim": 16},
            {"strategy": "isolated"},
        )
    }
    assert len(others | {model.fingerprint()}) == 6
