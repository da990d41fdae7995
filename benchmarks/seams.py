"""Seams: how near windowed token states come to those of one longer pass, by which window is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
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


@torch.inference_mode()
def stitch(
    encoder: Encoder, ids: np.ndarray, windows: Sequence[Window], *, numbering: Numbering
) -> Float[Tensor, "tokens dim"]:
    """States of all tokens, each from the window that owns it."""
    pieces = []
    for window in windows:
        full = np.concatenate([encoder.prefix_ids, ids[window.start : window.end], encoder.suffix_ids])
        positions = np.arange(len(full)) + encoder.profile.first_position
        skipped = len(encoder.prefix_ids)
        if numbering == "document":
            positions[skipped:] += window.start
        states = encoder._model(
            input_ids=torch.from_numpy(full.astype(np.int64))[None].to(encoder.device),
            position_ids=torch.from_numpy(positions)[None].to(encoder.device),
            text_lengths=[len(full)],
        ).last_hidden_state[0]
        offset = skipped - window.start
        pieces.append(states[offset + window.own_start : offset + window.own_end].float().cpu())
    return torch.cat(pieces)


def near_seams(token_count: int, windows: Sequence[Window]) -> Bool[np.ndarray, " tokens"]:
    """Tokens that two windows read, or that stand within `NEAR_TOKENS` of where ownership changes."""
    is_near = np.zeros(token_count, dtype=bool)
    for earlier, later in pairwise(windows):
        is_near[later.start : earlier.end] = True
        is_near[max(later.own_start - NEAR_TOKENS, 0) : later.own_start + NEAR_TOKENS] = True
    return is_near


def compare(
    encoder: Encoder, passages: Sequence[np.ndarray], window_tokens: int, overlap: int, numbering: Numbering
) -> list[dict[str, object]]:
    """Cosine to the single pass of each arm: over all tokens, near the seams, and of chunk vectors."""
    capacity = window_tokens - len(encoder.prefix_ids) - len(encoder.suffix_ids)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for ids in passages:
        count = len(ids)
        whole = stitch(encoder, ids, [Window(0, count, 0, count)], numbering="window")
        chunks = [TokenSpan(i, min(i + CHUNK_TOKENS, count)) for i in range(0, count, CHUNK_TOKENS)]
        windows = make_windows(count, capacity=capacity, overlap=overlap)
        is_near = near_seams(count, windows)
        for arm, arm_windows in {
            OURS: windows,
            EARLIER: believe_earlier(windows),
            FIXED_STEP: fixed_step_windows(count, capacity, overlap),
        }.items():
            states = stitch(encoder, ids, arm_windows, numbering=numbering)
            tokens = torch.cosine_similarity(states, whole).numpy()
            vectors = torch.cosine_similarity(pool_spans(states, chunks), pool_spans(whole, chunks))
            scores.setdefault(arm, []).append((tokens.mean(), tokens[is_near].mean(), vectors.mean().item()))
    return [
        {
            "numbering": numbering,
            "window_tokens": window_tokens,
            "overlap_tokens": overlap,
            "arm": arm,
            **{
                name: [round(x, 5) for x in mean_interval(np.array(values))]
                for name, values in zip(MEASURES, zip(*rows, strict=True), strict=True)
            },
        }
        for arm, rows in scores.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--passages", type=int, default=60, help="how many stretches of 510 tokens")
    options = parser.parse_args(argv)
    if options.quick:
        options.passages = 2
    encoder = load_encoder(dtype="float32")
    ids = encoder.tokenize(read_text(6 * encoder.capacity * options.passages)).ids
    passages = [ids[i * encoder.capacity :][: encoder.capacity] for i in range(options.passages)]
    write_report(
        "seams",
        options,
        model=f"{encoder.profile.name}, sha256 {encoder.profile.weights_sha256[:12]}, float32",
        data=f"stretches of {encoder.capacity} tokens of pydoc_data.topics (CPython)",
        n=options.passages,
        interval="95 % bootstrap over the stretches",
        results={
            "near_tokens": NEAR_TOKENS,
            "chunk_tokens": CHUNK_TOKENS,
            "rows": [
                row
                for numbering in get_args(Numbering)
                for window_tokens in WINDOW_TOKENS[: 1 if options.quick else None]
                for overlap in OVERLAPS[-1 if options.quick else 0 :]
                for row in compare(encoder, passages, window_tokens, overlap, numbering)
            ],
        },
    )


if __name__ == "__main__":
    main()
