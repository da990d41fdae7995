"""Seams: how near windowed token states come to those of one longer pass, by which window is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from benchmarks.bootstrap import mean_interval
from benchmarks.corpus import read_text
from benchmarks.report import make_parser, write_report
from rag_embed import Encoder, load_encoder
from rag_embed.pooling import pool_spans
from rag_embed.spans import TokenSpan
from rag_embed.windows import Window, make_windows

OURS = "most central window (ours)"
EARLIER = "earlier window, equal sizes"
FIXED_STEP = "earlier window, fixed step"
WINDOW_TOKENS = (128, 256)
OVERLAPS = (0, 16, 32, 60)
NEAR_TOKENS = 8
MEASURES = ("all_tokens", "near_seams", "chunk_vectors")
CHUNK_TOKENS = 64

Numbering = Literal["window", "document"]
"""Whether positions count from the window's start, as in use, or are those of the single pass, so that it is
only by the missing context that a window differs."""


def believe_earlier(windows: Sequence[Window]) -> list[Window]:
    """The same windows, but a token read twice is taken from the earlier one."""
    borders = [0, *(window.end for window in windows)]
    return [replace(w, own_start=a, own_end=b) for w, (a, b) in zip(windows, pairwise(borders), strict=True)]


def fixed_step_windows(token_count: int, capacity: int, overlap: int) -> list[Window]:
    """Windows of full size and a last stump, as long late chunking is usually written."""
    starts = range(0, max(token_count - overlap, 1), capacity - overlap)
    windows = [Window(start, min(start + capacity, token_count), 0, 0) for start in starts]
    return believe_earlier(windows)


@dataclass(frozen=True, slots=True, order=True)
class Reading:
    """What decides the states of a window of a passage.

    Attributes:
        start: First token.
        end: One past the last token.
        shift: How far its positions are moved on.
    """

    start: int
    end: int
    shift: int

    @classmethod
    def of(cls, window: Window, numbering: Numbering) -> Reading:
        """How a window is read, whichever of its tokens are believed."""
        return cls(window.start, window.end, window.start if numbering == "document" else 0)


@torch.inference_mode()
def read_all(
    encoder: Encoder, ids: Int[np.ndarray, " tokens"], readings: Set[Reading]
) -> dict[Reading, Float[Tensor, "_ dim"]]:
    """States of the tokens of each reading, special tokens left out; each is computed once.

    The encoder itself numbers every window from its start, so the packed batches are made here.

    Args:
        encoder: Of an architecture that runs packed.
        ids: A passage, without special tokens.
        readings: Which of its tokens to read together.
    """
    prefix, suffix = encoder.prefix_ids, encoder.suffix_ids
    # Readings of one length lie together: attention takes them in one call.
    ordered = sorted(readings, key=lambda reading: (reading.end - reading.start, reading))
    per_batch = max(1, encoder.batch_tokens // encoder.max_tokens)
    states: dict[Reading, Float[Tensor, "_ dim"]] = {}
    for first in range(0, len(ordered), per_batch):
        batch = ordered[first : first + per_batch]
        texts = [np.concatenate([prefix, ids[r.start : r.end], suffix]) for r in batch]
        positions = [np.arange(len(text)) + encoder.profile.first_position for text in texts]
        for numbers, reading in zip(positions, batch, strict=True):
            numbers[len(prefix) :] += reading.shift
        lengths = [len(text) for text in texts]
        output = encoder._model(
            input_ids=torch.from_numpy(np.concatenate(texts).astype(np.int64))[None].to(encoder.device),
            position_ids=torch.from_numpy(np.concatenate(positions))[None].to(encoder.device),
            text_lengths=lengths,
        )
        for reading, found in zip(batch, output.last_hidden_state[0].split(lengths), strict=True):
            states[reading] = found[len(prefix) : len(found) - len(suffix)].float().cpu()
    return states


def near_seams(token_count: int, windows: Sequence[Window]) -> Bool[np.ndarray, " tokens"]:
    """Tokens that two windows read, or that stand within `NEAR_TOKENS` of where ownership changes."""
    is_near = np.zeros(token_count, dtype=bool)
    for earlier, later in pairwise(windows):
        is_near[later.start : earlier.end] = True
        is_near[max(later.own_start - NEAR_TOKENS, 0) : later.own_start + NEAR_TOKENS] = True
    return is_near


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to cut a passage and number its tokens."""

    numbering: Numbering
    window_tokens: int
    overlap: int

    def make_arms(self, token_count: int, special_count: int) -> dict[str, list[Window]]:
        """The windows of each arm; `OURS` and `EARLIER` differ only in whose states are taken."""
        capacity = self.window_tokens - special_count
        windows = make_windows(token_count, capacity=capacity, overlap=self.overlap)
        return {
            OURS: windows,
            EARLIER: believe_earlier(windows),
            FIXED_STEP: fixed_step_windows(token_count, capacity, self.overlap),
        }


Scores = tuple[float, float, float]
"""Cosine to the single pass over all tokens, near the seams, and of chunk vectors."""


def score_passage(
    encoder: Encoder, ids: Int[np.ndarray, " tokens"], layouts: Sequence[Layout]
) -> dict[tuple[Layout, str], Scores]:
    """How near each arm of each layout comes to the single pass over one passage."""
    count, special_count = len(ids), len(encoder.prefix_ids) + len(encoder.suffix_ids)
    cuts = {layout: layout.make_arms(count, special_count) for layout in layouts}
    single = Reading(0, count, 0)
    readings = {
        Reading.of(window, layout.numbering)
        for layout, arms in cuts.items()
        for windows in arms.values()
        for window in windows
    }
    states = read_all(encoder, ids, {single, *readings})
    chunks = [TokenSpan(i, min(i + CHUNK_TOKENS, count)) for i in range(0, count, CHUNK_TOKENS)]
    whole = states[single]
    whole_vectors = pool_spans(whole, chunks)
    scores: dict[tuple[Layout, str], Scores] = {}
    for layout, arms in cuts.items():
        is_near = near_seams(count, arms[OURS])
        for arm, windows in arms.items():
            stitched = torch.cat(
                [
                    states[Reading.of(w, layout.numbering)][w.own_start - w.start : w.own_end - w.start]
                    for w in windows
                ]
            )
            tokens = torch.cosine_similarity(stitched, whole).numpy()
            vectors = torch.cosine_similarity(pool_spans(stitched, chunks), whole_vectors)
            scores[layout, arm] = (
                float(tokens.mean()),
                float(tokens[is_near].mean()),
                vectors.mean().item(),
            )
    return scores


def summarise(passages: Sequence[Mapping[tuple[Layout, str], Scores]]) -> list[dict[str, object]]:
    """A row per layout and arm: means over the passages, and their paired differences from `OURS`."""
    rows: list[dict[str, object]] = []
    for layout, arm in passages[0]:
        values = np.array([scores[layout, arm] for scores in passages])
        ours = np.array([scores[layout, OURS] for scores in passages])
        row: dict[str, object] = {
            "numbering": layout.numbering,
            "window_tokens": layout.window_tokens,
            "overlap_tokens": layout.overlap,
            "arm": arm,
        }
        for index, name in enumerate(MEASURES):
            row[name] = _rounded_interval(values[:, index])
            row[f"{name}_difference"] = _rounded_interval(values[:, index] - ours[:, index])
        rows.append(row)
    return rows


def _rounded_interval(values: Float[np.ndarray, " passages"]) -> list[float]:
    return [round(x, 5) for x in mean_interval(values)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--passages", type=int, default=30, help="how many stretches of 510 tokens")
    options = parser.parse_args(argv)
    if options.quick:
        options.passages = 2
    layouts = [
        Layout(numbering, window_tokens, overlap)
        for numbering in get_args(Numbering)
        for window_tokens in WINDOW_TOKENS[: 1 if options.quick else None]
        for overlap in OVERLAPS[-1 if options.quick else 0 :]
    ]
    encoder = load_encoder(dtype="float32")
    ids = encoder.tokenize(read_text(6 * encoder.capacity * options.passages)).ids
    passages = [ids[i * encoder.capacity :][: encoder.capacity] for i in range(options.passages)]
    write_report(
        "seams",
        options,
        model=f"{encoder.profile.name}, sha256 {encoder.profile.weights_sha256[:12]}, float32",
        data=f"stretches of {encoder.capacity} tokens of pydoc_data.topics (CPython)",
        n=options.passages,
        interval="95 % bootstrap over the stretches, paired for differences",
        results={
            "near_tokens": NEAR_TOKENS,
            "chunk_tokens": CHUNK_TOKENS,
            "rows": summarise([score_passage(encoder, passage, layouts) for passage in passages]),
        },
    )


if __name__ == "__main__":
    main()
