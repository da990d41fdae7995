"""Chunk vectors against the slow reference and sentence-transformers, and what must hold of them."""

from __future__ import annotations

import ast
import itertools
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.encoder import Encoder
from rag_embed.errors import EmptySpanError, EmptyTextError, InputError, SpanOutOfRangeError
from rag_embed.late_chunking import WindowOptions, embed_chunks, embed_isolated, embed_late
from rag_embed.spans import CharSpan
from tests import reference
from tests.checkpoints import MAX_TOKENS
from tests.conftest import Loaded
from tests.strategies import chunked_documents, context_sizes, documents

TOPICS = pydoc_data.topics.topics
DOCUMENT = "Berlin is the capital of Germany. Its river is the Spree. It has many bridges. " * 8
HEADS = [
    "",
    "Germany",
    "Cities > Germany > Berlin and the people of its river, in this chapter",
    "\u200b",
    "東京",
]


def spans_of(chunks: Sequence[tuple[int, int]]) -> list[CharSpan]:
    return [CharSpan(start, end) for start, end in chunks]


def sentences(text: str, size: int = 1) -> list[CharSpan]:
    """Cut behind every so many full stops."""
    stops = [i + 1 for i, char in enumerate(text) if char == "."][size - 1 :: size]
    borders = [0, *stops] if stops[-1:] == [len(text)] else [0, *stops, len(text)]
    return [CharSpan(*border) for border in itertools.pairwise(borders) if text[slice(*border)].strip()]


def largest_difference(found: torch.Tensor, expected: torch.Tensor | list[list[float]]) -> float:
    expected = torch.as_tensor(expected)
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


def reference_late(
    loaded: Loaded,
    text: str,
    chunks: Sequence[tuple[int, int]],
    options: WindowOptions,
    head: str,
    limit: int,
) -> list[list[float]]:
    """The reference within the documented limits: head up to half a window, overlap up to half the rest."""
    max_tokens = options.window_tokens or limit
    head_ids = reference.tokenize(loaded[1], head)[0] if head else []
    head_ids = head_ids[: min(options.head_tokens, (max_tokens - 2) // 2)]
    overlap = min(options.overlap_tokens, (max_tokens - 2 - len(head_ids)) // 2)
    return reference.late_vectors(*loaded, text, chunks, max_tokens, overlap, head_ids)


# ---------------------------------------------------------------- equal to the reference


@given(
    chunked_documents(),
    context_sizes(),
    st.sampled_from(HEADS),
    st.sampled_from([0, 1, 5, 64]),
)
@settings(max_examples=60, deadline=None)
def test_late_vectors_equal_the_reference(
    tiny_encoder: Encoder,
    tiny_reference: Loaded,
    document: tuple[str, list[tuple[int, int]]],
    sizes: tuple[int, int],
    head: str,
    head_tokens: int,
) -> None:
    text, chunks = document
    options = WindowOptions(window_tokens=sizes[0], overlap_tokens=sizes[1], head_tokens=head_tokens)
    found = embed_late(tiny_encoder, text, spans_of(chunks), head=head, options=options)
    expected = reference_late(tiny_reference, text, chunks, options, head, MAX_TOKENS)
    assert largest_difference(found, expected) < 1e-5
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")


@pytest.mark.parametrize("window", [64, 40, 23, 7, 3])
@pytest.mark.parametrize("head", ["", "Cities > Germany"])
def test_a_document_of_many_windows_equals_the_reference(
    tiny_encoder: Encoder, tiny_reference: Loaded, window: int, head: str
) -> None:
    spans = sentences(DOCUMENT, 2)
    options = WindowOptions(window_tokens=window, overlap_tokens=8, head_tokens=6)
    found = embed_late(tiny_encoder, DOCUMENT, spans, head=head, options=options)
    chunks = [(span.start, span.end) for span in spans]
    expected = reference_late(tiny_reference, DOCUMENT, chunks, options, head, MAX_TOKENS)
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("topic", "window", "overlap", "head"),
    [("compound", None, 64, ""), ("typesseq", 200, 32, "Sequence types"), ("lambda", 40, 8, "lambda")],
)
def test_real_documents_equal_the_reference_with_minilm(
    minilm: Encoder, minilm_reference: Loaded, topic: str, window: int | None, overlap: int, head: str
) -> None:
    text = TOPICS[topic][:6000]
    spans = sentences(text, 5)
    assert len(minilm.tokenize(text)) > 2 * (window or 512)
    options = WindowOptions(window_tokens=window, overlap_tokens=overlap)
    found = embed_late(minilm, text, spans, head=head, options=options)
    chunks = [(span.start, span.end) for span in spans]
    assert (
        largest_difference(found, reference_late(minilm_reference, text, chunks, options, head, 512)) < 1e-5
    )


@given(documents(), st.integers(8, MAX_TOKENS), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_isolated_vectors_equal_the_reference(
    tiny_encoder: Encoder, tiny_reference: Loaded, text: str, max_tokens: int, overlap: int
) -> None:
    if not len(tiny_encoder.tokenize(text)):
        return
    texts = [text, "Berlin", text * 3]
    found = embed_isolated(tiny_encoder, texts, options=WindowOptions(overlap_tokens=overlap))
    cut = min(overlap, (MAX_TOKENS - 2) // 2)
    expected = [reference.isolated_vector(*tiny_reference, each, MAX_TOKENS, cut) for each in texts]
    assert largest_difference(found, expected) < 1e-5


def test_a_long_text_alone_is_the_mean_over_its_windows(
    tiny_encoder: Encoder, tiny_reference: Loaded
) -> None:
    texts = ["short", DOCUMENT, "also short", DOCUMENT[:400]]
    options = WindowOptions(window_tokens=30, overlap_tokens=10)
    found = embed_isolated(tiny_encoder, texts, options=options)
    for vector, text in zip(found, texts, strict=True):
        fits = len(tiny_encoder.tokenize(text)) <= tiny_encoder.capacity
        size = MAX_TOKENS if fits else 30
        expected = reference.isolated_vector(*tiny_reference, text, size, 10)
        assert largest_difference(vector, expected) < 1e-5


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_blends_equal_the_reference(tiny_encoder: Encoder, tiny_reference: Loaded, alpha: float) -> None:
    spans = sentences(DOCUMENT, 3)
    found = embed_chunks(tiny_encoder, DOCUMENT, spans, strategy="blend", alpha=alpha)
    chunks = [(span.start, span.end) for span in spans]
    late = reference_late(tiny_reference, DOCUMENT, chunks, WindowOptions(), "", MAX_TOKENS)
    isolated = [
        reference.isolated_vector(*tiny_reference, DOCUMENT[start:end], MAX_TOKENS, 31)
        for start, end in chunks
    ]
    expected = reference.blend(late, isolated, alpha, chunks)
    assert largest_difference(found, expected) < 1e-5


def docstrings() -> Iterator[str]:
    """Docstrings of the standard library, module by module."""
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (
                text := ast.get_docstring(node)
            ):
                yield text


@pytest.mark.slow
def test_a_thousand_real_texts_equal_sentence_transformers(minilm: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    texts = list(
        dict.fromkeys([*docstrings(), *(part for text in TOPICS.values() for part in text.split("\n\n"))])
    )
    fitting = (len(tokens) <= minilm.capacity for tokens in minilm.tokenize_all(texts))
    texts = [text for text in itertools.compress(texts, fitting) if text.strip()]
    texts = texts[:: len(texts) // 1000][:1000]
    assert len(texts) == 1000
    model = SentenceTransformer(str(minilm.profile.folder), device="cpu", local_files_only=True)
    model.max_seq_length = 512
    expected = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
    assert largest_difference(embed_isolated(minilm, texts), expected) < 1e-5


def test_isolated_vectors_equal_sentence_transformers(minilm: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    paragraphs = [part for name in sorted(TOPICS) for part in TOPICS[name].split("\n\n") if part.strip()]
    short = [part for part in paragraphs[::3] if len(part) < 130]
    long = ["\n\n".join(paragraphs[i : i + 6]) for i in range(0, 30, 6)]
    chunks = [*short[:310], *long]
    model = SentenceTransformer(str(minilm.profile.folder), device="cpu", local_files_only=True)
    model.max_seq_length = 512
    fitting = [len(tokens) <= minilm.capacity for tokens in minilm.tokenize_all(chunks)]
    chunks = list(itertools.compress(chunks, fitting))
    assert len(chunks) >= 300
    expected = model.encode(
        chunks, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
    )
    assert largest_difference(embed_isolated(minilm, chunks), expected) < 1e-5


# ---------------------------------------------------------------- strategies


def test_strategies(tiny_encoder: Encoder) -> None:
    spans = sentences(DOCUMENT, 2)
    texts = [DOCUMENT[span.start : span.end] for span in spans]
    late = embed_late(tiny_encoder, DOCUMENT, spans)
    isolated = embed_isolated(tiny_encoder, texts)
    assert torch.equal(embed_chunks(tiny_encoder, DOCUMENT, spans, strategy="late"), late)
    assert torch.equal(embed_chunks(tiny_encoder, DOCUMENT, spans, strategy="isolated"), isolated)
    assert largest_difference(late, isolated) > 1e-2
    for alpha in (1.0, 0.0):
        found = embed_chunks(tiny_encoder, DOCUMENT, spans, strategy="blend", alpha=alpha)
        chunks = [(span.start, span.end) for span in spans]
        expected = reference.blend(late.tolist(), isolated.tolist(), alpha, chunks)
        assert largest_difference(found, expected) < 1e-6


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_an_alpha_out_of_range_is_refused(tiny_encoder: Encoder, alpha: float) -> None:
    with pytest.raises(InputError, match="expected a share of the late vector between 0 and 1"):
        embed_chunks(tiny_encoder, "a", [CharSpan(0, 1)], strategy="blend", alpha=alpha)


# ---------------------------------------------------------------- what must hold of the vectors


@given(chunked_documents(), st.randoms())
@settings(max_examples=25, deadline=None)
def test_as_many_unit_vectors_as_chunks_in_any_order(
    tiny_encoder: Encoder, document: tuple[str, list[tuple[int, int]]], random: object
) -> None:
    text, chunks = document
    spans = spans_of([*chunks, chunks[0], chunks[-1]])
    vectors = embed_late(tiny_encoder, text, spans)
    assert vectors.shape == (len(spans), tiny_encoder.dim)
    assert (vectors.norm(dim=1) - 1).abs().max() < 1e-6
    assert torch.equal(vectors[0], vectors[len(chunks)])
    assert torch.equal(vectors[len(chunks) - 1], vectors[-1])
    order = list(range(len(spans)))
    random.shuffle(order)
    assert torch.equal(embed_late(tiny_encoder, text, [spans[i] for i in order]), vectors[order])


def test_the_same_call_gives_the_same_bits(minilm: Encoder) -> None:
    text = TOPICS["lambda"]
    spans = sentences(text, 2)
    for strategy in ("isolated", "late", "blend"):
        first = embed_chunks(minilm, text, spans, strategy=strategy)
        assert torch.equal(first, embed_chunks(minilm, text, spans, strategy=strategy))


def test_an_edit_reaches_the_neighbours_and_nothing_else(minilm: Encoder) -> None:
    before = "Berlin is the capital of Germany. It has three million people. The river is called Spree."
    after = before.replace("Berlin", "Hamburg").replace("capital", "harbour")
    other = "Lima is the capital of Peru. It lies at the sea."
    late_before, late_after = (embed_late(minilm, text, sentences(text)) for text in (before, after))
    # "It" is another city now: the same characters have another vector.
    assert (late_before[1] - late_after[1]).norm() > 0.05
    assert (late_before[2] - late_after[2]).norm() > 0.05
    texts_before, texts_after = (
        [text[span.start : span.end] for span in sentences(text)] for text in (before, after)
    )
    alone_before, alone_after = (embed_isolated(minilm, texts) for texts in (texts_before, texts_after))
    assert not torch.equal(alone_before[0], alone_after[0])
    assert largest_difference(alone_before[1:], alone_after[1:]) < 1e-6
    other_before = embed_late(minilm, other, sentences(other))
    embed_late(minilm, after, sentences(after))
    assert torch.equal(embed_late(minilm, other, sentences(other)), other_before)


def test_context_helps_a_pronoun(minilm: Encoder) -> None:
    """The point of it all: "It" is nearer to the question about Berlin with its document around it."""
    text = "Berlin is the capital of Germany. It has more than three million inhabitants."
    spans = sentences(text)
    question = embed_isolated(minilm, ["population of Berlin"])[0]
    late = embed_chunks(minilm, text, spans, strategy="late")[1]
    isolated = embed_chunks(minilm, text, spans, strategy="isolated")[1]
    assert float(late @ question) > float(isolated @ question) + 0.1


def test_a_head_is_attended_to_and_not_pooled(tiny_encoder: Encoder, tiny_reference: Loaded) -> None:
    text, head = "Its river is the Spree. It has bridges.", "Berlin and its people"
    spans = sentences(text)
    plain = embed_late(tiny_encoder, text, spans)
    headed = embed_late(tiny_encoder, text, spans, head=head)
    assert largest_difference(plain, headed) > 1e-2
    chunks = [(span.start, span.end) for span in spans]
    expected = reference_late(tiny_reference, text, chunks, WindowOptions(), head, MAX_TOKENS)
    assert largest_difference(headed, expected) < 1e-5
    nothing = embed_late(tiny_encoder, text, spans, head=head, options=WindowOptions(head_tokens=0))
    assert torch.equal(nothing, plain)


def test_neighbours_in_the_batch_do_not_matter(tiny_encoder: Encoder) -> None:
    texts = [DOCUMENT[: 10 * i] for i in range(1, 30)]
    together = embed_isolated(tiny_encoder, texts)
    alone = torch.cat([embed_isolated(tiny_encoder, [text]) for text in texts])
    assert largest_difference(together, alone) < 1e-6


def test_nothing_to_embed(tiny_encoder: Encoder) -> None:
    assert embed_isolated(tiny_encoder, []).shape == (0, tiny_encoder.dim)
    assert embed_late(tiny_encoder, "Berlin", []).shape == (0, tiny_encoder.dim)


def test_a_text_without_tokens_alone_has_the_vector_of_nothing(tiny_encoder: Encoder) -> None:
    vectors = embed_isolated(tiny_encoder, ["", " ", "Berlin"])
    assert torch.equal(vectors[0], vectors[1])
    assert largest_difference(vectors[1], vectors[2]) > 1e-2


def test_late_chunking_passes_over_a_document_once(tiny_encoder: Encoder) -> None:
    tokens = len(tiny_encoder.tokenize(DOCUMENT))
    before = tiny_encoder.token_count
    embed_late(tiny_encoder, DOCUMENT, sentences(DOCUMENT), options=WindowOptions(overlap_tokens=0))
    windows = -(-tokens // tiny_encoder.capacity)
    # [CLS] and [SEP] of each window, and up to one token per window because all have one size.
    assert tokens + 2 * windows <= tiny_encoder.token_count - before <= tokens + 3 * windows


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("text", ["", " \r\n", "\u200b"])
def test_a_document_without_tokens_is_refused(tiny_encoder: Encoder, text: str) -> None:
    with pytest.raises(EmptyTextError, match=rf"sees nothing in a document of {len(text)} characters"):
        embed_late(tiny_encoder, text, [])


def test_a_chunk_without_tokens_is_refused_before_anything_is_computed(tiny_encoder: Encoder) -> None:
    before = tiny_encoder.forward_count
    with pytest.raises(EmptySpanError, match="1 of 2 chunks hold no token") as caught:
        embed_late(tiny_encoder, "Berlin   Spree", [CharSpan(0, 6), CharSpan(7, 8)])
    assert caught.value.indices == (1,)
    with pytest.raises(SpanOutOfRangeError, match=r"chunk 0 is \[0, 15\) of a text of 14 characters"):
        embed_late(tiny_encoder, "Berlin   Spree", [CharSpan(0, 15)])
    assert tiny_encoder.forward_count == before


@pytest.mark.parametrize("window", [-1, 0, 2, MAX_TOKENS + 1])
def test_a_window_that_the_model_cannot_read_is_refused(tiny_encoder: Encoder, window: int) -> None:
    message = rf"windows of {window} tokens; expected more than the 2 special tokens and at most the 64"
    with pytest.raises(InputError, match=message):
        embed_late(tiny_encoder, "Berlin", [CharSpan(0, 6)], options=WindowOptions(window_tokens=window))


def test_a_negative_overlap_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(InputError, match="overlap of -1"):
        embed_late(tiny_encoder, "Berlin", [CharSpan(0, 6)], options=WindowOptions(overlap_tokens=-1))


# ---------------------------------------------------------------- memory

MEASURE_MEMORY = """
import resource, sys, torch
from rag_embed import CharSpan, embed_chunks, load_encoder
from rag_embed.late_chunking import WindowOptions

torch.set_num_threads(1)
encoder = load_encoder(sys.argv[1], device="cpu", dtype="float32")
unit = 1024 if sys.platform == "darwin" else 1
text = "berlin is the city with this river and its people has germany as "
size = len(encoder.tokenize(text))
for token_count in (10_000, 200_000):
    document = text * -(-token_count // size)
    spans = [CharSpan(i, min(i + 1500, len(document))) for i in range(0, len(document), 1500)]
    vectors = embed_chunks(encoder, document, spans, strategy="late", options=WindowOptions(overlap_tokens=8))
    assert len(vectors) == len(spans)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit // 1024)
"""


def test_memory_does_not_grow_with_the_document(tiny_folder: Path) -> None:
    command = [sys.executable, "-c", MEASURE_MEMORY, str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    short, long = map(int, done.stdout.split())
    assert long - short <= 300, f"{short} MiB for 10,000 tokens, {long} MiB for 200,000"
