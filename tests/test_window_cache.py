"""Windows that are found again give the bits of a full run, and an edit reads what it changed alone."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter

from rag_embed import CharSpan, ContextualEmbedding, LateChunkingNodeParser, load_embedder
from rag_embed.chunk_embedder import ChunkEmbedder, Embedded
from rag_embed.chunked_text import ChunkedText
from rag_embed.errors import InputError
from rag_embed.recipe import Recipe
from tests.test_adapter import write_adapter
from tests.test_shared_layers import share_one_layer

WORDS = ["river", "bridge", "city", "people", "capital", "germany", "berlin", "this", "that", "with"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return share_one_layer(write_adapter(tmp_path_factory.mktemp("adapter") / "upper", tiny_folder))


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path, adapter: Path) -> Recipe:
    return Recipe(model=tiny_folder, adapter=adapter)


def make_document(paragraphs: Sequence[str], head: str = "") -> ChunkedText:
    spans, start = [], 0
    for paragraph in paragraphs:
        spans.append(CharSpan(start, start + len(paragraph)))
        start += len(paragraph) + 1
    return ChunkedText("\n".join(paragraphs), spans, head)


def make_paragraph(number: int, words: int = 8) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=words))


def embed(embedder: ChunkEmbedder, document: ChunkedText) -> Embedded:
    return next(embedder.embed_with_tokens([document]))


def assert_same_bits(found: Embedded, expected: Embedded) -> None:
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        assert one is not None and other is not None
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def count_windows(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("SELECT count(*) FROM windows").fetchone()[0])


edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "move", "change"]), st.integers(0, 999), st.integers(0, 999)
    ),
    min_size=1,
    max_size=3,
)


def edit(paragraphs: list[str], changes: Sequence[tuple[str, int, int]]) -> list[str]:
    edited = list(paragraphs)
    for kind, one, other in changes:
        place = one % len(edited)
        if kind == "insert":
            edited.insert(place, make_paragraph(1000 + other))
        elif kind == "change":
            edited[place] = make_paragraph(2000 + other, 5)
        elif len(edited) > 1:
            taken = edited.pop(place)
            if kind == "move":
                edited.insert(other % (len(edited) + 1), taken)
    return edited


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=edits, head=st.sampled_from(["", "berlin\n\n"]))
def test_an_edited_document_has_the_bits_of_a_full_run(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, changes: list[tuple[str, int, int]], head: str
) -> None:
    folder = tmp_path_factory.mktemp("caches")
    paragraphs = [make_paragraph(number, 4 + number % 9) for number in range(30)]
    edited = make_document(edit(paragraphs, changes), head)
    embedder = load_embedder(recipe, window_cache=folder / "used.sqlite")
    embed(embedder, make_document(paragraphs, head))
    found = embed(embedder, edited)
    fresh = load_embedder(recipe, window_cache=folder / "fresh.sqlite")
    assert_same_bits(found, embed(fresh, edited))
    assert_same_bits(embed(embedder, edited), found)
    without = embed(load_embedder(recipe), edited)
    torch.testing.assert_close(found[0], without[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("paragraph_count", [1_500, pytest.param(12_500, marks=pytest.mark.slow)])
def test_one_edit_of_a_long_document_reads_three_windows_at_most(
    tmp_path: Path, recipe: Recipe, paragraph_count: int
) -> None:
    """Up to 100,000 tokens in thousands of windows; each edit is one of the document as it was."""
    path = tmp_path / "windows.sqlite"
    embedder = load_embedder(recipe, window_cache=path)
    paragraphs = [make_paragraph(number, 4 + number % 9) for number in range(paragraph_count)]
    document = make_document(paragraphs)
    assert len(embedder.encoder.tokenize(document.text)) > 7.5 * paragraph_count
    embed(embedder, document)
    assert count_windows(path) > paragraph_count / 4
    counts = []
    for number, kind in enumerate(["insert", "delete", "change"] * 4):
        before = count_windows(path)
        tokens = embedder.encoder.token_count
        embed(embedder, make_document(edit(paragraphs, [(kind, 997 * number + 5, number)])))
        counts.append(count_windows(path) - before)
        assert embedder.encoder.token_count - tokens <= 4096  # passes have one length, and there are few
    assert max(counts) <= 3
    assert sum(counts) > 0


def test_nothing_is_read_twice_by_another_process(tmp_path: Path, recipe: Recipe) -> None:
    document = make_document([make_paragraph(number) for number in range(12)])
    first = load_embedder(recipe, window_cache=tmp_path / "deep" / "windows.sqlite")
    expected = embed(first, document)
    again = load_embedder(recipe, window_cache=tmp_path / "deep" / "windows.sqlite")
    passes = again.encoder.forward_count
    assert_same_bits(embed(again, document), expected)
    assert again.encoder.forward_count == passes


def test_vectors_alone_and_vectors_with_tokens_are_kept_apart(tmp_path: Path, recipe: Recipe) -> None:
    document = make_document([make_paragraph(number) for number in range(12)])
    embedder = load_embedder(recipe, window_cache=tmp_path / "windows.sqlite")
    vectors = next(embedder.embed_documents([document]))
    found = embed(embedder, document)
    assert torch.equal(found[0], vectors)
    assert all(tokens is not None for tokens in found[1])


def test_another_recipe_finds_nothing(tmp_path: Path, recipe: Recipe, tiny_folder: Path) -> None:
    other_adapter = share_one_layer(write_adapter(tmp_path / "other", tiny_folder, seed=1))
    document = make_document([make_paragraph(number) for number in range(12)])
    path = tmp_path / "windows.sqlite"
    embed(load_embedder(recipe, window_cache=path), document)
    other = Recipe(model=tiny_folder, adapter=other_adapter)
    expected = embed(load_embedder(other, window_cache=tmp_path / "other.sqlite"), document)
    assert_same_bits(embed(load_embedder(other, window_cache=path), document), expected)


@pytest.mark.parametrize("words", [50, 90, 200])
def test_a_chunk_longer_than_a_window_is_found_again_with_its_tokens(
    tmp_path: Path, recipe: Recipe, words: int
) -> None:
    """Neighbours are averaged across the pieces that it is read in."""
    paragraphs = [make_paragraph(number, words if number in {3, 6} else 8) for number in range(12)]
    document = make_document(paragraphs)
    embedder = load_embedder(recipe, window_cache=tmp_path / "windows.sqlite")
    expected = embed(embedder, document)
    passes = embedder.encoder.forward_count
    assert_same_bits(embed(embedder, document), expected)
    assert embedder.encoder.forward_count == passes
    edited = make_document([*paragraphs[:3], "berlin has a river", *paragraphs[3:]])
    fresh = load_embedder(recipe, window_cache=tmp_path / "fresh.sqlite")
    assert_same_bits(embed(embedder, edited), embed(fresh, edited))


@pytest.mark.parametrize(
    "damage", ["content = zeroblob(length(content))", "content = NULL", "content = 'a'", "checksum = NULL"]
)
def test_a_damaged_row_is_read_again(tmp_path: Path, recipe: Recipe, damage: str) -> None:
    document = make_document([make_paragraph(number) for number in range(12)])
    path = tmp_path / "windows.sqlite"
    embedder = load_embedder(recipe, window_cache=path)
    expected = embed(embedder, document)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE windows SET {damage}")
    passes = embedder.encoder.forward_count
    assert_same_bits(embed(embedder, document), expected)
    assert embedder.encoder.forward_count > passes
    passes = embedder.encoder.forward_count
    assert_same_bits(embed(embedder, document), expected)
    assert embedder.encoder.forward_count == passes  # the row is mended


@pytest.mark.parametrize("content", [b"not a database " * 100, None])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, recipe: Recipe, content: bytes | None) -> None:
    path = tmp_path / "windows.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    embedder = load_embedder(recipe, window_cache=path)
    with pytest.raises(InputError, match=r"windows.sqlite cannot be used .*Delete it if it is damaged"):
        embed(embedder, make_document(["berlin is the city"]))


def test_windows_that_are_counted_from_the_start_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="windows are counted from the start"):
        load_embedder(Recipe(model=tiny_folder, adapter=None), window_cache=tmp_path / "windows.sqlite")


def test_a_llamaindex_model_reads_what_was_edited(tmp_path: Path, tiny_folder: Path, adapter: Path) -> None:
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=24, chunk_overlap=0))
    model = ContextualEmbedding(
        model=str(tiny_folder), adapter=str(adapter), window_cache=str(tmp_path / "windows.sqlite")
    )
    paragraphs = [f"{make_paragraph(number, 4 + number % 9)}.\n\n" for number in range(200)]
    model(parser([Document(text="".join(paragraphs), id_="a")]))
    before = count_windows(tmp_path / "windows.sqlite")
    assert before > 50
    edited = Document(text="".join([*paragraphs[:30], "berlin has a river.\n\n", *paragraphs[30:]]), id_="a")
    # The splitter's borders are the old ones again some chunks further on.
    found = [node.embedding for node in model(parser([edited]))]
    assert 0 < count_windows(tmp_path / "windows.sqlite") - before <= before / 5
    fresh = model.model_copy(update={"window_cache": str(tmp_path / "fresh.sqlite")})
    assert found == [node.embedding for node in fresh(parser([edited]))]
