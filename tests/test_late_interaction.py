"""Token vectors of chunks and queries against stock forwards written out, and what must hold of them."""

from __future__ import annotations

import itertools
import pydoc_data.topics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.chunked_text import ChunkedText
from rag_embed.encoder import Encoder
from rag_embed.errors import (
    ContextOverflowError,
    EmptySpanError,
    EmptyTextError,
    InputError,
    UnsupportedModelError,
)
from rag_embed.guards import Guard
from rag_embed.late_chunking import Strategy
from rag_embed.late_interaction import SpanTokens, embed_query_tokens
from rag_embed.loading import load_embedder
from rag_embed.max_sim import TokenForm, max_sim, to_units
from rag_embed.recipe import Recipe
from rag_embed.spans import CharSpan, TokenSpan
from tests import reference
from tests.checkpoints import MAX_TOKENS
from tests.checkpoints_families import write_family
from tests.conftest import Loaded
from tests.strategies import chunked_documents, context_sizes

TOPICS = pydoc_data.topics.topics
EVERY_TOKEN = TokenForm("float16", 1)
POOLED = TokenForm("float16", 4)
HEADS = ["", "Germany", "Cities > Germany > Berlin and the people of its river"]


def embedder_of(
    encoder: Encoder,
    *,
    strategy: Strategy = "late",
    form: TokenForm = EVERY_TOKEN,
    sizes: tuple[int, int] = (MAX_TOKENS, 8),
    **options: object,
) -> ChunkEmbedder:
    window_tokens, overlap_tokens = sizes
    recipe = Recipe(
        model=encoder.profile.folder,
        dtype="float32",
        strategy=strategy,
        adapter=None,
        window_tokens=window_tokens,
        overlap_tokens=overlap_tokens,
        **options,
    )
    return ChunkEmbedder(recipe, encoder, lambda: encoder, form)


def document_of(text: str, chunks: Sequence[tuple[int, int]], head: str = "") -> ChunkedText:
    return ChunkedText(text, [CharSpan(start, end) for start, end in chunks if start < end], head=head)


def slow_vectors(
    loaded: Loaded, document: ChunkedText, *, sizes: tuple[int, int], neighbours: int
) -> list[np.ndarray]:
    """The reference within the documented limits: head up to half a window, overlap up to half the rest."""
    max_tokens, overlap = sizes
    head_ids = reference.tokenize(loaded[1], document.head)[0] if document.head else []
    head_ids = head_ids[: min(64, (max_tokens - 2) // 2)]
    chunks = [(span.start, span.end) for span in document.spans]
    overlap = min(overlap, (max_tokens - 2 - len(head_ids)) // 2)
    found = reference.chunk_states(*loaded, document.text, chunks, max_tokens, overlap, head_ids)
    return [np.array(reference.token_vectors(states, neighbours)) for states in found]


# ---------------------------------------------------------------- equal to the reference


@given(chunked_documents(), context_sizes(), st.sampled_from(HEADS), st.sampled_from([1, 3, 4]))
@settings(max_examples=40, deadline=None)
def test_token_vectors_of_chunks_equal_stock_states_of_their_windows(
    tiny_encoder: Encoder,
    tiny_reference: Loaded,
    chunked: tuple[str, list[tuple[int, int]]],
    sizes: tuple[int, int],
    head: str,
    neighbours: int,
) -> None:
    document = document_of(*chunked, head)
    embedder = embedder_of(tiny_encoder, form=TokenForm("float16", neighbours), sizes=sizes)
    ((_, kept),) = embedder.embed_with_tokens([document])
    expected = slow_vectors(tiny_reference, document, sizes=sizes, neighbours=neighbours)
    for found, wanted in zip(kept, expected, strict=True):
        assert found is not None and found.shape == wanted.shape
        assert np.abs(to_units(found) - wanted).max() < 2e-3  # half precision


def test_a_question_and_a_chunk_compare_as_sums_by_hand(
    tiny_encoder: Encoder, tiny_reference: Loaded
) -> None:
    text = "Berlin is the capital of Germany. Its river is the Spree. It has many bridges. " * 6
    cuts = [0, *(i + 1 for i, char in enumerate(text) if char == "."), len(text)]
    document = document_of(text, [cut for cut in itertools.pairwise(cuts) if text[slice(*cut)].strip()])
    ((_, kept),) = embedder_of(tiny_encoder).embed_with_tokens([document])
    expected = slow_vectors(tiny_reference, document, sizes=(MAX_TOKENS, 8), neighbours=1)
    asked = embedder_of(tiny_encoder).embed_query_tokens("which river has bridges?")
    by_hand = reference.query_vectors(*tiny_reference, "which river has bridges?")
    for found, wanted in zip(kept, expected, strict=True):
        slow = reference.max_sim(by_hand, wanted.tolist())
        assert max_sim(asked, to_units(found)) == pytest.approx(slow, abs=1e-3)


def test_int8_in_fours_is_the_default_and_points_where_floats_point(minilm: Encoder) -> None:
    document = document_of(TOPICS["lists"], [(0, 200), (200, 400), (400, len(TOPICS["lists"]))])
    ((_, small),) = embedder_of(minilm, form=TokenForm(), sizes=(256, 32)).embed_with_tokens([document])
    ((_, floats),) = embedder_of(minilm, form=POOLED, sizes=(256, 32)).embed_with_tokens([document])
    for few, many in zip(small, floats, strict=True):
        assert few.dtype == np.int8 and few.shape == many.shape
        assert (to_units(few) * to_units(many)).sum(axis=1).min() > 0.9995


# ---------------------------------------------------------------- one pass for both


@pytest.mark.parametrize("strategy", ["late", "blend", "isolated"])
def test_chunk_vectors_are_the_same_bits_with_and_without_tokens(
    tiny_encoder: Encoder, strategy: Strategy
) -> None:
    names = ("lists", "assert", "pass", "lambda")
    documents = [document_of(TOPICS[name], [(0, 90), (90, 200), (200, len(TOPICS[name]))]) for name in names]
    embedder = embedder_of(tiny_encoder, strategy=strategy)
    before = tiny_encoder.token_count
    plain = list(embedder.embed_documents(documents))
    cost = tiny_encoder.token_count - before
    both = list(embedder.embed_with_tokens(documents))
    assert tiny_encoder.token_count - before == 2 * cost, "tokens cost a pass of their own"
    for vectors, (again, kept) in zip(plain, both, strict=True):
        assert torch.equal(vectors, again)
        assert all((each is None) == (strategy == "isolated") for each in kept)


def test_company_changes_no_bit_of_a_token_vector(minilm: Encoder) -> None:
    texts = [TOPICS[name][:length] for name, length in (("lists", 120), ("pass", 90), ("assert", 1500))]
    documents = [document_of(text, [(0, 60), (60, len(text))]) for text in texts]
    embedder = embedder_of(minilm, form=TokenForm(), sizes=(128, 16))
    together = [kept for _, kept in embedder.embed_with_tokens(documents)]
    for document, kept in zip(documents, together, strict=True):
        ((_, alone),) = embedder.embed_with_tokens([document])
        assert all(np.array_equal(one, other) for one, other in zip(alone, kept, strict=True))


def test_a_chunk_that_no_window_reads_has_no_tokens(tiny_encoder: Encoder) -> None:
    document = document_of("the river\u200b", [(0, 9), (9, 10)])
    ((vectors, kept),) = embedder_of(tiny_encoder).embed_with_tokens([document])
    assert len(vectors) == 2 and kept[0] is not None and kept[1] is None
    with pytest.raises(EmptySpanError, match="1 of 1 chunks hold no token"):
        embedder_of(tiny_encoder).read_tokens(document, [1])


# ---------------------------------------------------------------- read again


@given(chunked_documents(max_fragments=24), context_sizes(min_tokens=12), st.data())
@settings(max_examples=40, deadline=None)
def test_any_chunks_read_again_are_what_indexing_kept(
    tiny_encoder: Encoder,
    chunked: tuple[str, list[tuple[int, int]]],
    sizes: tuple[int, int],
    data: st.DataObject,
) -> None:
    document = document_of(*chunked, "Germany")
    rows = data.draw(st.lists(st.integers(0, len(document.spans) - 1), min_size=1, max_size=5))
    embedder = embedder_of(tiny_encoder, form=POOLED, sizes=sizes)
    ((_, kept),) = embedder.embed_with_tokens([document])
    again = embedder.read_tokens(document, rows)
    for row, found in zip(rows, again, strict=True):
        assert kept[row] is not None
        assert np.abs(to_units(found) - to_units(kept[row])).max() < 1e-3


def needed_tokens(loaded: Loaded, document: ChunkedText, rows: Sequence[int], sizes: tuple[int, int]) -> int:
    """Tokens of the windows that own one of these chunks' tokens, special tokens included."""
    ids, offsets = reference.tokenize(loaded[1], document.text)
    spans = reference.token_spans(
        offsets, document.text, [(document.spans[row].start, document.spans[row].end) for row in rows]
    )
    count = 0
    for start, end, own_start, own_end in reference.windows(len(ids), sizes[0] - 2, sizes[1]):
        if any(max(first, own_start) < min(last, own_end) for first, last in spans):
            count += end - start + 2
    return count


@pytest.mark.parametrize("rows", [[0], [7], [7, 8], [0, 20], list(range(21))])
def test_only_the_windows_that_hold_the_chunks_are_read(
    tiny_encoder: Encoder, tiny_reference: Loaded, rows: list[int]
) -> None:
    text = TOPICS["lists"]
    cuts = np.linspace(0, len(text), 22).astype(int).tolist()
    document = document_of(text, list(itertools.pairwise(cuts)))
    embedder, sizes = embedder_of(tiny_encoder, sizes=(32, 6)), (32, 6)
    before = tiny_encoder.token_count
    assert len(embedder.read_tokens(document, rows)) == len(rows)
    read = tiny_encoder.token_count - before
    assert read == needed_tokens(tiny_reference, document, rows, sizes)
    everything = needed_tokens(tiny_reference, document, list(range(21)), sizes)
    assert read == everything if len(rows) == 21 else read < everything / 3


def test_windows_that_are_left_out_are_noticed() -> None:
    tokens = SpanTokens([TokenSpan(0, 4), TokenSpan(6, 8)], EVERY_TOKEN)
    tokens.add(torch.ones(3, 2), 0)
    tokens.add(torch.ones(3, 2), 5)
    with pytest.raises(InputError, match="states of 1 of 2 chunks are missing; add every window"):
        tokens.kept()


# ---------------------------------------------------------------- queries


def test_a_query_is_its_tokens_without_prefix_and_special_tokens(
    tiny_encoder: Encoder, tiny_reference: Loaded
) -> None:
    for query in ("river", "Which river has bridges, and is it the Spree?"):
        found = embed_query_tokens(tiny_encoder, query)
        assert np.abs(found - np.array(reference.query_vectors(*tiny_reference, query))).max() < 1e-5
        prefixed = embedder_of(tiny_encoder, query_prefix="ask: ").embed_query_tokens(query)
        prefix_ids, _ = reference.tokenize(tiny_reference[1], "ask: ")
        expected = reference.query_vectors(*tiny_reference, query, prefix_ids)
        assert np.abs(prefixed - np.array(expected)).max() < 1e-5
        assert np.abs(prefixed - found).max() > 1e-2  # the prefix is read


@pytest.mark.parametrize("family", ["modernbert-embed", "e5"])
def test_the_first_word_behind_a_prefix_counts_where_tokens_begin_with_a_space(
    tmp_path: Path, family: str
) -> None:
    """Byte-level and SentencePiece tokenizers put the space of "query: river" into the word."""
    embedder = load_embedder(
        Recipe(model=write_family(tmp_path, family), dtype="float32", strategy="late"), device="cpu"
    )
    prefix = embedder.recipe.prefix("query")
    assert prefix.endswith(" ")
    both = len(embedder.encoder.tokenize(prefix + "river is"))
    assert len(embedder.embed_query_tokens("river is")) == both - len(
        embedder.encoder.tokenize(prefix.rstrip())
    )


@pytest.mark.parametrize("query", ["", " \n", "\u200b"])
def test_a_query_without_tokens_is_refused(tiny_encoder: Encoder, query: str) -> None:
    for embedder in (embedder_of(tiny_encoder), embedder_of(tiny_encoder, query_prefix="ask: ")):
        with pytest.raises(EmptyTextError, match="holds no token; ask something"):
            embedder.embed_query_tokens(query)


def test_a_query_that_is_longer_than_the_model_reads_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(ContextOverflowError):
        embed_query_tokens(tiny_encoder, "river " * 100)


# ---------------------------------------------------------------- guards


@pytest.mark.parametrize("family", ["gte-modernbert", "qwen3-embedding", "pplx-embed-context-v1"])
def test_models_whose_token_states_mean_nothing_are_refused(tmp_path: Path, family: str) -> None:
    folder = write_family(tmp_path, family)
    text = "Berlin is the capital of Germany."
    document = document_of(text, [(0, len(text))])

    def embedder(*insist: Guard) -> ChunkEmbedder:
        recipe = Recipe(model=folder, dtype="float32", strategy="isolated")
        return load_embedder(recipe, device="cpu", insist=insist, token_form=EVERY_TOKEN)

    message = (
        r"cannot be used for late interaction: .*not trained to be compared; leave out tokens=, or insist"
    )
    before = embedder().encoder.forward_count
    with pytest.raises(UnsupportedModelError, match=message):
        embedder().embed_query_tokens("capital")
    with pytest.raises(UnsupportedModelError, match=message):
        embedder().read_tokens(document, [0])
    assert embedder().encoder.forward_count == before
    ((_, kept),) = embedder().embed_with_tokens([document])
    assert kept == [None]  # isolated chunks have none, and that is no error
    asked = embedder("late").embed_query_tokens("capital")
    (read,) = embedder("late").read_tokens(document, [0])
    assert -1 <= max_sim(asked, to_units(read)) <= 1 + 1e-3


# ---------------------------------------------------------------- memory

MEASURE_MEMORY = """
import resource, sys, torch
from rag_embed.chunked_text import ChunkedText
from rag_embed.loading import load_embedder
from rag_embed.recipe import Recipe
from rag_embed.spans import CharSpan

torch.set_num_threads(1)
embedder = load_embedder(
    Recipe(model=sys.argv[1], dtype="float32", strategy="late", overlap_tokens=8), device="cpu"
)
unit = 1024 if sys.platform == "darwin" else 1
text = "berlin is the city with this river and its people has germany as "
size = len(embedder.encoder.tokenize(text))
for token_count in (10_000, 200_000):
    document = text * -(-token_count // size)
    spans = [CharSpan(i, min(i + 1500, len(document))) for i in range(0, len(document), 1500)]
    ((vectors, kept),) = embedder.embed_with_tokens([ChunkedText(document, spans)])
    assert len(vectors) == len(spans) and all(each is not None for each in kept)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit // 1024)
"""


def test_memory_does_not_grow_with_the_document(tiny_folder: Path) -> None:
    command = [sys.executable, "-c", MEASURE_MEMORY, str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    short, long = map(int, done.stdout.split())
    assert long - short <= 300, f"{short} MiB for 10,000 tokens, {long} MiB for 200,000"
