"""How much arithmetic an encoder's pass needs, and how much the machine can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.race import Race
from rag_embed.shared_layers import SharedLayers, TwoReadings, WindowTexts

GEMM_FLOPS = 2e10
_GEMM_SHAPES = (
    *((rows, 384, 1536) for rows in (512, 2048, 8192)),
    *((rows, 1536, 384) for rows in (512, 2048, 8192)),
    *((size, size, size) for size in (1024, 2048)),
)


@dataclass
class PassLog:
    """The texts that went through a model.

    Attributes:
        lengths: Tokens of each, special tokens included.
        positions: Positions computed, padding included.
    """

    lengths: list[int] = field(default_factory=list)
    positions: int = 0

    @property
    def padding_share(self) -> float:
        """Share of the positions that were computed for nothing."""
        return 1 - sum(self.lengths) / self.positions if self.positions else 0.0


@contextmanager
def log_passes(model: torch.nn.Module) -> Iterator[PassLog]:
    """Record what a transformer is given: padded batches with a mask, or packed texts with their lengths.

    Args:
        model: Our encoder's transformer, or the first module of a sentence-transformers model.
    """
    log = PassLog()

    def record(
        module: torch.nn.Module, args: tuple[Mapping[str, Any], ...], kwargs: Mapping[str, Any]
    ) -> None:
        features = args[0] if args else kwargs
        log.positions += features["input_ids"].numel()
        packed = features.get("text_lengths")
        log.lengths += features["attention_mask"].sum(dim=1).tolist() if packed is None else packed

    handle = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield log
    finally:
        handle.remove()


@contextmanager
def log_windows(layers: SharedLayers) -> Iterator[tuple[PassLog, PassLog]]:
    """Record what goes through shared layers: texts through all, and windows through the upper ones."""
    texts, windows = PassLog(), PassLog()
    forward = layers.forward

    def record(batch: Sequence[WindowTexts]) -> list[list[TwoReadings]]:
        lengths = [[len(text) for text in window] for window in batch]
        texts.lengths += [length for window in lengths for length in window]
        windows.lengths += [sum(window) for window in lengths]
        texts.positions = sum(texts.lengths)
        windows.positions = sum(windows.lengths)
        return forward(batch)

    layers.forward = record  # type: ignore[method-assign]
    try:
        yield texts, windows
    finally:
        del layers.forward


def encoder_flops(lengths: Sequence[int], *, hidden: int, intermediate: int, layers: int) -> int:
    """Floating-point operations of the matrix products that full attention over these texts needs.

    Per layer and token four projections, the two feed-forward products, and scores and mixing over the text.
    """
    per_token = 2 * (4 * hidden**2 + 2 * hidden * intermediate)
    return layers * sum(length * per_token + 4 * length**2 * hidden for length in lengths)


def gemm_contestants(flops: float = GEMM_FLOPS) -> dict[str, Callable[[], object]]:
    """Matrix products of the encoder's shapes and square ones, about `flops` operations each, in float32."""
    contestants: dict[str, Callable[[], object]] = {}
    for rows, inner, outer in _GEMM_SHAPES:
        x, weight = torch.randn(rows, inner), torch.randn(outer, inner)
        repeats = max(1, round(flops / (2 * rows * inner * outer)))
        contestants[f"gemm {rows}x{inner}x{outer} {repeats} times"] = partial(_multiply, x, weight, repeats)
    return contestants


@torch.inference_mode()
def _multiply(x: torch.Tensor, weight: torch.Tensor, repeats: int) -> None:
    for _ in range(repeats):
        torch.nn.functional.linear(x, weight)


def gemm_rates(race: Race) -> dict[str, float]:
    """Median operations per second of each shape."""
    names = [name for name in race.seconds if name.startswith("gemm ")]
    return {name.split()[1]: _gemm_flops(name) / race.median_s(name) for name in names}


def _gemm_flops(name: str) -> int:
    _, shape, repeats, _ = name.split()
    rows, inner, outer = map(int, shape.split("x"))
    return 2 * rows * inner * outer * int(repeats)
