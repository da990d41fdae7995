"""The stamp survives the way through a node's metadata."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_embed.errors import InputError
from rag_embed.stamp import STAMP_KEY, ChunkStamp, hash_text

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
stamps = st.builds(
    ChunkStamp,
    context=texts,
    start=st.integers(0, 10**9),
    end=st.integers(0, 10**9),
    before=texts,
    after=texts,
    fingerprint=st.none() | texts,
)


@given(stamps)
def test_a_stamp_comes_back_as_it_was(stamp: ChunkStamp) -> None:
    text = stamp.to_text()
    assert isinstance(text, str)
    assert ChunkStamp.from_metadata({"title": "x", STAMP_KEY: text}) == stamp
    # Also through the JSON of a store's payload.
    assert ChunkStamp.from_metadata(json.loads(json.dumps({STAMP_KEY: text}))) == stamp


def test_metadata_without_stamp() -> None:
    assert ChunkStamp.from_metadata({}) is None
    assert ChunkStamp.from_metadata({"title": "x"}) is None


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", "3", "{}", '{"context": "a", "start": 1, "end": 2, "unknown": 3}', 7]
)
def test_a_stamp_of_another_make_is_refused(text: object) -> None:
    message = (
        r"metadata 'rag_embed' holds .*, not a stamp of this version of rag-embed; parse the document again"
    )
    with pytest.raises(InputError, match=message):
        ChunkStamp.from_metadata({STAMP_KEY: text})


def test_texts_are_named_by_their_content() -> None:
    assert hash_text("abc") == "ba7816bf8f01cfea414140de5dae2223"
    assert hash_text("abc") != hash_text("abc ")
    assert len(hash_text("\ud800 lone surrogate")) == 32
