"""Late chunking and late interaction, slow and obvious: what the real ones are compared with, to 1e-5.

Everything but one projection is a plain Python loop over lists of numbers, one window at a time, batch
size 1, eager attention, float32 forward and float64 mean. Nothing here is imported from the implementation
except the error classes.

Source: Günther et al. 2024, arXiv:2409.04701. Differs in: a token that straddles two chunks is kept, and long
documents are read in overlapping windows of which each token keeps the state of its most central one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from rag_embed.errors import EmptySpanError, EmptyTextError

Vector = list[float]
Array = np.ndarray  # where a library solves for something
SPECIAL_TOKENS = 2  # [CLS] before and [SEP] behind every window


# ---------------------------------------------------------------- characters to tokens


def trimmed_range(start: int, end: int, text: str) -> tuple[int, int]:
    """Return the character range of a token without the white space at its ends.

    A token of white space only keeps its range; an empty range counts as one character long.
    """
    if start == end:
        return start, start + 1
    if text[start:end].isspace():
        return start, end
    while text[start].isspace():
        start += 1
    while text[end - 1].isspace():
        end -= 1
    return start, end


def token_spans(
    offsets: Sequence[tuple[int, int]], text: str, chunks: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Find the tokens of each chunk.

    A token belongs to a chunk if its middle lies in it; a tie goes to the earlier of two neighbours. A chunk
    in which no token has its middle takes every token that shares a character with it.

    Args:
        offsets: Half-open character range of each token, in reading order.
        text: The document that offsets and chunks count in.
        chunks: Half-open character ranges; they may overlap and may leave gaps.

    Returns:
        One half-open range of token indices per chunk, in the given order.

    Raises:
        EmptySpanError: No token touches one of the chunks.
    """
    token_ranges = []
    for start, end in offsets:
        token_ranges.append(trimmed_range(start, end, text))

    spans = []
    empty_chunks = []
    for chunk_index, (chunk_start, chunk_end) in enumerate(chunks):
        belonging = []
        touching = []
        for token_index, (start, end) in enumerate(token_ranges):
            if 2 * chunk_start < start + end <= 2 * chunk_end:
                belonging.append(token_index)
            if max(start, chunk_start) < min(end, chunk_end):
                touching.append(token_index)
        if not belonging:
            belonging = touching
        if belonging:
            spans.append((belonging[0], belonging[-1] + 1))
        else:
            empty_chunks.append(chunk_index)
    if empty_chunks:
        raise EmptySpanError(f"reference: chunks {empty_chunks} hold no token", tuple(empty_chunks))
    return spans


# ---------------------------------------------------------------- tokens to windows


def window_borders(token_count: int, capacity: int, overlap: int) -> list[tuple[int, int]]:
    """Spread the fewest windows of equal size over the tokens; half-open, in reading order."""
    if token_count <= capacity:
        return [(0, token_count)]
    if not 0 <= overlap < capacity:
        raise ValueError(f"overlap {overlap} must be at least 0 and less than the capacity {capacity}")
    count = ceil_divide(token_count - overlap, capacity - overlap)
    size = ceil_divide(token_count + (count - 1) * overlap, count)
    borders = []
    for i in range(count):
        start = (i * (token_count - size)) // (count - 1)
        borders.append((start, start + size))
    return borders


def ceil_divide(dividend: int, divisor: int) -> int:
    """Divide two positive whole numbers and round up, without going through floats."""
    quotient = dividend // divisor
    if quotient * divisor < dividend:
        quotient += 1
    return quotient


def owning_window(token: int, borders: Sequence[tuple[int, int]]) -> int:
    """Return the window in which the token is farthest from both borders, on a tie the earliest."""
    best_window = None
    best_distance = -1.0
    for window, (start, end) in enumerate(borders):
        if not start <= token < end:
            continue
        # Where the document itself begins or ends, no context is missing.
        left = math.inf if window == 0 else token - start
        right = math.inf if window == len(borders) - 1 else end - 1 - token
        distance = min(left, right)
        if distance > best_distance:
            best_window = window
            best_distance = distance
    assert best_window is not None, f"token {token} lies in no window of {borders}"
    return best_window


def windows(token_count: int, capacity: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Lay windows over the tokens of a document and give each token to one of them.

    Args:
        token_count: Tokens of the document, without special tokens.
        capacity: Most document tokens that fit into a window.
        overlap: Least number of tokens that two neighbouring windows share.

    Returns:
        `(start, end, own_start, own_end)` per window, both ranges half-open and counted from the first token.
    """
    borders = window_borders(token_count, capacity, overlap)
    if token_count == 0:
        return [(0, 0, 0, 0)]
    owned_tokens: list[list[int]] = [[] for _ in borders]
    for token in range(token_count):
        owned_tokens[owning_window(token, borders)].append(token)

    result = []
    next_token = 0
    for (start, end), owned in zip(borders, owned_tokens, strict=True):
        assert end - start <= capacity, f"window {start}..{end} is longer than the capacity {capacity}"
        assert owned, f"window {start}..{end} owns no token"
        own_start, own_end = owned[0], owned[-1] + 1
        assert owned == list(range(next_token, own_end)), (
            f"window {start}..{end} owns scattered tokens {owned}"
        )
        next_token = own_end
        result.append((start, end, own_start, own_end))
    assert next_token == token_count
    return result


# ---------------------------------------------------------------- the model


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a checkpoint folder as the reference wants it: stock, eager, float32, no dropout."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "only a fast tokenizer reports character offsets"
    return model.eval(), tokenizer


def tokenize(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokenise the whole text once: token ids and character offsets, no special tokens, no truncation."""
    encoding = tokenizer(
        text,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    offsets = []
    for start, end in encoding["offset_mapping"]:
        offsets.append((start, end))
    return list(encoding["input_ids"]), offsets


def run_alone(model: PreTrainedModel, token_ids: Sequence[int]) -> list[Vector]:
    """Run one sequence through the model, batch size 1 and no mask; the last state of every position."""
    assert model.config._attn_implementation == "eager", (
        "load the reference model with attn_implementation='eager'"
    )
    assert model.dtype == torch.float32, "load the reference model in float32"
    assert not model.training, "call model.eval() first"
    with torch.no_grad():
        output = model(input_ids=torch.tensor([list(token_ids)]))
    states: list[Vector] = output.last_hidden_state[0].double().tolist()
    return states


def content_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    token_ids: Sequence[int],
    max_tokens: int,
    overlap: int,
    head_ids: Sequence[int] = (),
) -> list[Vector]:
    """Return one state per document token, each out of the window that owns the token.

    A window is read as [CLS] + head + its tokens + [SEP]; the states of the additions are thrown away.
    """
    before = [tokenizer.cls_token_id, *head_ids]
    after = [tokenizer.sep_token_id]
    capacity = max_tokens - SPECIAL_TOKENS - len(head_ids)
    states = []
    for start, end, own_start, own_end in windows(len(token_ids), capacity, overlap):
        window_ids = before + list(token_ids[start:end]) + after
        assert len(window_ids) <= max_tokens
        window_states = run_alone(model, window_ids)
        for token in range(own_start, own_end):
            states.append(window_states[len(before) + token - start])
    assert len(states) == len(token_ids)
    return states


def chunk_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    chunks: Sequence[tuple[int, int]],
    max_tokens: int,
    overlap: int,
    head_ids: Sequence[int] = (),
) -> list[list[Vector]]:
    """Return the states of each chunk's tokens, computed with the document around them.

    Args:
        model: A stock encoder out of `load`.
        tokenizer: Its fast tokenizer.
        text: The whole document.
        chunks: Half-open character ranges of the document; they may overlap.
        max_tokens: Most tokens that the model reads at once, [CLS], head and [SEP] included.
        overlap: Least number of document tokens that neighbouring windows share.
        head_ids: Token ids that every window starts with, attended to and in no chunk.

    Raises:
        EmptySpanError: No token touches one of the chunks.
    """
    token_ids, offsets = tokenize(tokenizer, text)
    spans = token_spans(offsets, text, chunks)
    states = content_states(model, tokenizer, token_ids, max_tokens, overlap, head_ids)
    return [states[start:end] for start, end in spans]


# ---------------------------------------------------------------- vectors


def mean(vectors: Sequence[Vector]) -> Vector:
    """Average vectors component by component."""
    result = []
    for component in range(len(vectors[0])):
        total = 0.0
        for vector in vectors:
            total += vector[component]
        result.append(total / len(vectors))
    return result


def unit(vector: Sequence[float]) -> Vector:
    """Scale a vector to Euclidean length 1; the zero vector is a ZeroDivisionError."""
    total = 0.0
    for component in vector:
        total += component * component
    length = math.sqrt(total)
    return [component / length for component in vector]


def late_vectors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    chunks: Sequence[tuple[int, int]],
    max_tokens: int,
    overlap: int,
    head_ids: Sequence[int] = (),
) -> list[Vector]:
    """Late chunking: each chunk is the mean of its tokens' states; arguments and errors of `chunk_states`.

    Returns:
        One unit vector per chunk, in the given order.
    """
    all_states = chunk_states(model, tokenizer, text, chunks, max_tokens, overlap, head_ids)
    return [unit(mean(states)) for states in all_states]


def isolated_vector(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, max_tokens: int, overlap: int
) -> Vector:
    """Embed a text alone, as everybody does: the unit mean over all positions, special tokens included.

    A text that does not fit into `max_tokens` is read in windows; then the mean is over its own tokens only.

    Raises:
        EmptyTextError: The text holds no token.
    """
    token_ids, _ = tokenize(tokenizer, text)
    if not token_ids:
        raise EmptyTextError("reference: the text holds no token")
    if len(token_ids) + SPECIAL_TOKENS <= max_tokens:
        states = run_alone(model, [tokenizer.cls_token_id, *token_ids, tokenizer.sep_token_id])
    else:
        states = content_states(model, tokenizer, token_ids, max_tokens, overlap)
    return unit(mean(states))


def blend(
    late: Sequence[Vector], isolated: Sequence[Vector], alpha: float, chunks: Sequence[tuple[int, int]]
) -> list[Vector]:
    """Mix the vectors of a document's chunks: the isolated one, the mean difference, a share of its rest.

    Of the rest, what lies in the space of the chunk and its neighbours, but not in its own direction, is
    dropped; directions are those of isolated vectors around their mean. The neighbours are the chunk that
    begins last before it, and the one that ends first behind it, neither of which contains it.
    """
    late, isolated = [unit(vector) for vector in late], [unit(vector) for vector in isolated]
    centre = np.array(mean(isolated))
    shift = np.array(mean(late)) - centre
    blended = []
    for row, alone in enumerate(map(np.array, isolated)):
        rest = np.array(late[row]) - alone - shift
        start, end = chunks[row]
        before = [i for i, (first, last) in enumerate(chunks) if first < start and last < end]
        behind = [i for i, (first, last) in enumerate(chunks) if first > start and last > end]
        before = sorted(before, key=lambda i: chunks[i])[-1:]
        behind = sorted(behind, key=lambda i: (chunks[i][1], chunks[i][0]))[:1]
        beside = [np.array(isolated[i]) - centre for i in (row, *before, *behind)]
        rest = rest - project(rest, beside) + project(rest, beside[:1])
        blended.append(unit((alone + shift + alpha * rest).tolist()))
    return blended


def project(vector: Array, directions: Sequence[Array]) -> Array:
    """Project onto the space of some vectors, which may be short of rank."""
    matrix = np.stack(directions, axis=1)
    if np.abs(matrix).max() < 1e-6:
        return np.zeros_like(vector)
    return matrix @ np.linalg.lstsq(matrix, vector, rcond=1e-6)[0]


# ---------------------------------------------------------------- late interaction


def token_vectors(states: Sequence[Vector], neighbours: int = 1) -> list[Vector]:
    """Unit vectors of one chunk's tokens out of `chunk_states`.

    Args:
        states: In reading order.
        neighbours: How many tokens make one vector, the average of theirs.
    """
    units = [unit(state) for state in states]
    return [unit(mean(units[first : first + neighbours])) for first in range(0, len(units), neighbours)]


def query_vectors(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, query: str, prefix_ids: Sequence[int] = ()
) -> list[Vector]:
    """Unit vectors of a query's tokens, read behind [CLS] and a prefix, which are left out with [SEP]."""
    token_ids, _ = tokenize(tokenizer, query)
    states = run_alone(model, [tokenizer.cls_token_id, *prefix_ids, *token_ids, tokenizer.sep_token_id])
    return [unit(state) for state in states[1 + len(prefix_ids) : -1]]


def max_sim(query: Sequence[Vector], chunk: Sequence[Vector]) -> float:
    """The mean over the query's tokens of the largest cosine with any token of the chunk."""
    total = 0.0
    for asked in query:
        best = -math.inf
        for token in chunk:
            cosine = 0.0
            for left, right in zip(unit(asked), unit(token), strict=True):
                cosine += left * right
            best = max(best, cosine)
        total += best
    return total / len(query)


# ---------------------------------------------------------------- chunk texts to character spans


def without_white_space(text: str) -> str:
    """Remove every white space character."""
    return "".join(text.split())


def check_alignment(text: str, chunk_texts: Sequence[str], spans: Sequence[tuple[int, int]]) -> None:
    """Assert that the spans are where the chunks stand in the text, in order.

    White space is ignored in the comparison, because splitters strip, collapse and insert it.

    Args:
        text: The document.
        chunk_texts: The chunks as a splitter returned them.
        spans: The half-open character ranges to check, one per chunk.
    """
    assert len(spans) == len(chunk_texts), f"{len(spans)} spans for {len(chunk_texts)} chunks"
    previous_start = 0
    for index, (start, end) in enumerate(spans):
        assert 0 <= start <= end <= len(text), (
            f"span {index} is {start}..{end} in a text of {len(text)} characters"
        )
        found = text[start:end]
        expected = chunk_texts[index]
        assert without_white_space(found) == without_white_space(expected), (
            f"span {index}, {start}..{end}, holds {found!r} and not {expected!r}"
        )
        assert start >= previous_start, f"span {index} starts at {start}, before {previous_start}"
        previous_start = start
