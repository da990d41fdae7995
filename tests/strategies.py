"""Hypothesis strategies: documents that break offset arithmetic, and ways to cut them into chunks."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from hypothesis import strategies as st

Span = tuple[int, int]

SENTENCES = [
    "Berlin is the capital of Germany.",
    "Its river is the Spree, and the city has many bridges.",
    "It is not. It is. It is not.",
    "naïve café, Straße, İstanbul, ﬁnal ①",
    "Don't re-enter U.S.A. at 3.14 p.m.!?",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇩🇪", "❤️", "1️⃣", "a😂b"]
COMBINING = ["e\u0301", "a\u0308\u0323", "\u0301", "n\u0303o", "Z\u0351\u036b\u0343algo", "नमस्ते", "กำ"]
ZERO_WIDTH = [
    "\u200b",
    "\u200d",
    "\ufeff",
    "zero\u200bwidth",
    "soft\u00adhyphen",
    "\u2060word",
    "\u200eltr\u200f",
]
CJK = [
    "東京都は日本の首都。",
    "中国人民大学",
    "これは、テストです！",
    "한국어 문서",
    "東 京",
    "Tokyo東京2020",
]
CHARACTERS = ["a", "I", "7", ".", "-", "语", "…", "\ufffd"]
WHITE_SPACE = [
    " ",
    "  ",
    "     ",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\t",
    "\u00a0",
    "\u3000",
    "\u2028",
    " \n \t \r\n ",
]


def has_content(text: str) -> bool:
    """Tell whether a tokenizer can be expected to see anything here but blanks, marks and controls."""
    for char in text:
        # BERT tokenizers delete the replacement character, too.
        if not char.isspace() and unicodedata.category(char)[0] not in "CMZ" and char != "\ufffd":
            return True
    return False


def long_words() -> st.SearchStrategy[str]:
    """Unbroken words; those of more than 100 characters are one single [UNK] for a BERT tokenizer."""
    return st.builds(
        lambda part, count: part * count, st.sampled_from(["a", "tion", "ab1", "xyz"]), st.integers(5, 50)
    )


def fragments() -> st.SearchStrategy[str]:
    """One piece of a document: a sentence, a nasty sequence, a long word or a few arbitrary characters."""
    return st.one_of(
        st.sampled_from(SENTENCES),
        st.sampled_from(EMOJI + COMBINING + ZERO_WIDTH),
        st.sampled_from(CJK),
        st.sampled_from(CHARACTERS),
        long_words(),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    )


@st.composite
def documents(draw: st.DrawFn, max_fragments: int = 12) -> str:
    """A document with content, of up to `max_fragments` pieces; pieces and whole runs of them may repeat."""
    vocabulary = draw(st.lists(fragments(), min_size=1, max_size=max_fragments))
    separators = st.one_of(st.just(""), st.just(" "), st.sampled_from(WHITE_SPACE))
    pieces = draw(
        st.lists(st.tuples(st.sampled_from(vocabulary), separators), min_size=1, max_size=max_fragments)
    )
    text = draw(separators) + "".join(piece + separator for piece, separator in pieces)
    return text if has_content(text) else text + "a"


def join_empty_pieces(text: str, cuts: Sequence[int]) -> list[int]:
    """Leave out the cuts after which a piece would be without content; the rest, in order."""
    kept = []
    start = 0
    for cut in cuts:
        if has_content(text[start:cut]) and has_content(text[cut:]):
            kept.append(cut)
            start = cut
    return kept


@st.composite
def partitions(draw: st.DrawFn, text: str, allow_blank: bool = False, max_chunks: int = 12) -> list[Span]:
    """Chunks that cover the text without gap or overlap, cut at words or anywhere, graphemes included.

    Args:
        draw: Given by hypothesis.
        text: The document, not empty.
        allow_blank: Also make chunks of blanks, marks or zero-width characters only, perhaps without a token.
        max_chunks: Most chunks to make.
    """
    after_white_space = [i for i in range(1, len(text)) if text[i - 1].isspace() and not text[i].isspace()]
    positions = st.integers(1, max(1, len(text) - 1))
    if after_white_space:
        positions = st.one_of(st.sampled_from(after_white_space), positions)
    cuts = sorted(draw(st.sets(positions, max_size=max_chunks - 1)) if len(text) > 1 else [])
    if not allow_blank:
        cuts = join_empty_pieces(text, cuts)
    return list(zip([0, *cuts], [*cuts, len(text)], strict=True))


@st.composite
def gapped_chunkings(draw: st.DrawFn, text: str, max_chunks: int = 12) -> list[Span]:
    """Chunks with content that leave out white space at the start, at the end or at both ends of each."""
    spans = []
    for start, end in draw(partitions(text, max_chunks=max_chunks)):
        trim_left, trim_right = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        piece = text[start:end]
        new_start = start + len(piece) - len(piece.lstrip()) if trim_left else start
        new_end = end - len(piece) + len(piece.rstrip()) if trim_right else end
        spans.append((new_start, new_end))
    return spans


@st.composite
def overlapping_chunkings(draw: st.DrawFn, text: str, max_chunks: int = 12) -> list[Span]:
    """Chunks with content that reach back into those before; starts never decrease, two may be equal."""
    spans: list[Span] = []
    for start, end in draw(partitions(text, max_chunks=max_chunks)):
        earliest = spans[-1][0] if spans else start
        spans.append((draw(st.integers(earliest, start)), end))
    if draw(st.booleans()):
        spans.append(spans[-1])
    return spans


def chunkings(text: str, max_chunks: int = 12) -> st.SearchStrategy[list[Span]]:
    """Any way to cut a document into chunks of which each has content."""
    return st.one_of(
        partitions(text, max_chunks=max_chunks),
        gapped_chunkings(text, max_chunks=max_chunks),
        overlapping_chunkings(text, max_chunks=max_chunks),
    )


@st.composite
def chunked_documents(
    draw: st.DrawFn, max_fragments: int = 12, max_chunks: int = 12
) -> tuple[str, list[Span]]:
    """A document and chunks of it."""
    text = draw(documents(max_fragments))
    return text, draw(chunkings(text, max_chunks))


@st.composite
def context_sizes(
    draw: st.DrawFn, min_tokens: int = 6, max_tokens: int = 64, head: int = 0
) -> tuple[int, int]:
    """`(max_tokens, overlap)` that leave room for [CLS], [SEP], a head of that many tokens and one more."""
    size = draw(st.integers(max(min_tokens, head + 3), max_tokens))
    capacity = size - 2 - head
    # An overlap near the capacity means a window per token: slow, so seldom.
    overlap = st.one_of(
        st.integers(0, capacity // 4), st.integers(0, capacity // 2), st.integers(0, capacity - 1)
    )
    return size, draw(overlap)


@st.composite
def window_layouts(draw: st.DrawFn, max_count: int = 300) -> tuple[int, int, int]:
    """`(token_count, capacity, overlap)` of a document with at least one token."""
    token_count = draw(st.integers(1, max_count))
    capacity = draw(st.integers(1, max_count))
    return token_count, capacity, draw(st.integers(0, capacity - 1))
