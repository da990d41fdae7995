"""Seams: how near windowed token states come to those of one longer pass, by which window is believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

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
OVERLAPS = (0, 16, 32, 64)
NEAR_TOKENS = 8
CHUNK_TOKENS = 64


def believe_earlier(windows: Sequence[Window]) -> list[Window]:
    """The same windows, but a token read twice is taken from the earlier one."""
    borders = [0, *(window.end for window in windows)]
    return [replace(w, own_start=a, own_end=b) for w, (a, b) in zip(windows, pairwise(borders), strict=True)]


def fixed_step_windows(token_count: int, capacity: int, overlap: int) -> list[Window]:
    """Windows of full size and a last stump, as long late chunking is usually written."""
    starts = range(0, max(token_count - overlap, 1), capacity - overlap)
    windows = [Window(start, min(start + capacity, token_count), 0, 0) for start in starts]
    return believe_earlier(windows)


def stitch(encoder: Encoder, ids: np.ndarray, windows: Sequence[Window]) -> Float[Tensor, "tokens dim"]:
    """States of all tokens, each from the window that owns it."""
    skipped = len(encoder.prefix_ids)
    passes = encoder.encode(ids[window.start : window.end] for window in windows)
    return torch.cat(
        [
            states[skipped + w.own_start - w.start : skipped + w.own_end - w.start].float().cpu()
            for w, states in zip(windows, passes, strict=True)
        ]
    )


def near_seams(token_count: int, windows: Sequence[Window]) -> Bool[np.ndarray, tokens]:
    """Tokens that two windows read, or that stand within `NEAR_TOKENS` of where ownership changes."""
    is_near = np.zeros(token_count, dtype=bool)
    for earlier, later in pairwise(windows):
        is_near[later.start : earlier.end] = True
        is_near[max(later.own_start - NEAR_TOKENS, 0) : later.own_start + NEAR_TOKENS] = True
    return is_near


def compare(
    encoder: Encoder, passages: Sequence[np.ndarray], window_tokens: int, overlap: int
) -> list[dict[str, object]]:
    """Cosine to the single pass of each arm: over all tokens, near the seams, and of chunk vectors."""
    capacity = window_tokens - len(encoder.prefix_ids) - len(encoder.suffix_ids)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for ids in passages:
        count = len(ids)
        (whole,) = encoder.encode([ids])
        whole = whole[len(encoder.prefix_ids) :][:count].float().cpu()
        chunks = [TokenSpan(i, min(i + CHUNK_TOKENS, count)) for i in range(0, count, CHUNK_TOKENS)]
        windows = make_windows(count, capacity=capacity, overlap=overlap)
        is_near = near_seams(count, windows)
        for arm, arm_windows in {
            OURS: windows,
            EARLIER: believe_earlier(windows),
            FIXED_STEP: fixed_step_windows(count, capacity, overlap),
        }.items():
            states = stitch(encoder, ids, arm_windows)
            tokens = torch.cosine_similarity(states, whole).numpy()
            vectors = torch.cosine_similarity(pool_spans(states, chunks), pool_spans(whole, chunks))
            scores.setdefault(arm, []).append((tokens.mean(), tokens[is_near].mean(), vectors.mean().item()))
    return [
        {
            "window_tokens": window_tokens,
            "overlap_tokens": overlap,
            "arm": arm,
            **{
                name: [round(x, 5) for x in mean_interval(np.array(values))]
                for name, values in zip(
                    ("all_tokens", "near_seams", "chunk_vectors"), zip(*rows, strict=True)
                )
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
                for window_tokens in WINDOW_TOKENS[: 1 if options.quick else None]
                for overlap in OVERLAPS[-1 if options.quick else 0 :]
                for row in compare(encoder, passages, window_tokens, min(overlap, window_tokens // 2 - 2))
            ],
        },
    )


if __name__ == "__main__":
    main()
