"""Where things stand in the report's drawings; the template turns them into SVG.

All values are in points, hundredths of a measure, and all places in SVG units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rag_embed.evaluation.arms import ISOLATED, TITLED
from rag_embed.evaluation.metrics import MAIN_MEASURE
from rag_embed.evaluation.results import Difference, Evaluation

Sign = Literal["up", "down", "open"]

WIDTH = 1060
_LEFT, _RIGHT, _TOP, _ROW = 360, 190, 34, 26


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal axis.

    Attributes:
        low: Value at the left end.
        high: Value at the right end.
        left: Place of the left end.
        right: Place of the right end.
        ticks: Round values between them.
    """

    low: float
    high: float
    left: float
    right: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Find the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.left + share * (self.right - self.left), 1)


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One arm's difference.

    Attributes:
        label: Name of the arm.
        y: Height of its line.
        mean: Place of the difference.
        low: Place of the interval's lower end.
        high: Place of its upper end.
        sign: Whether the interval lies above zero, below, or on both sides.
        text: The numbers.
    """

    label: str
    y: float
    mean: float
    low: float
    high: float
    sign: Sign
    text: str


@dataclass(frozen=True, slots=True)
class IntervalPlot:
    """Differences to isolated chunks, an arm on each line.

    Attributes:
        axis: Of the differences.
        height: Of the drawing.
        rows: In the order of the arms.
        prefix: Place of the title prefix's difference; None without one.
    """

    axis: Axis
    height: float
    rows: tuple[IntervalRow, ...]
    prefix: float | None


@dataclass(frozen=True, slots=True)
class SliceRow:
    """One arm's nDCG@10 over the whole corpus and inside the right document, as places and text."""

    label: str
    y: float
    corpus: float
    document: float
    text: str


@dataclass(frozen=True, slots=True)
class SlicePlot:
    """Two slices, an arm on each line."""

    axis: Axis
    height: float
    rows: tuple[SliceRow, ...]


@dataclass(frozen=True, slots=True)
class QueryPlot:
    """Queries in the order of what an arm gains on each.

    Attributes:
        arm: Its name.
        won: Outline of the gains.
        lost: Outline of the losses.
        wins: How many queries it wins.
        ties: How many stay as they are.
        losses: How many it loses.
        bounds: Places where the wins end and the losses begin.
        zero: Height of the line without gain.
        height: Of the drawing.
        extent: Largest gain or loss that the drawing holds.
    """

    arm: str
    won: str
    lost: str
    wins: int
    ties: int
    losses: int
    bounds: tuple[float, float]
    zero: float
    height: float
    extent: float


def plot_intervals(evaluation: Evaluation) -> IntervalPlot | None:
    """Draw every arm's difference to isolated chunks with its interval; None if there is no other arm."""
    found = [(r.arm.name, evaluation.difference(r, ISOLATED)) for r in evaluation.results]
    shown = [(name, difference) for name, difference in found if difference is not None]
    if not shown:
        return None
    values = [100 * value for _, d in shown for value in (d.low, d.high)]
    axis = make_axis(min(0, *values), max(0, *values))
    rows = tuple(
        IntervalRow(
            label=name,
            y=_TOP + _ROW * number + _ROW / 2,
            mean=axis.place(100 * d.mean),
            low=axis.place(100 * d.low),
            high=axis.place(100 * d.high),
            sign=sign_of(d),
            text=describe(d),
        )
        for number, (name, d) in enumerate(shown)
    )
    prefix = dict(shown).get(TITLED)
    return IntervalPlot(
        axis, _TOP + _ROW * len(rows) + 40, rows, None if prefix is None else axis.place(100 * prefix.mean)
    )


def plot_slices(evaluation: Evaluation) -> SlicePlot | None:
    """Draw every arm in both slices, on the queries of the narrower; None if there is one slice."""
    if len(evaluation.sliced) < 2:
        return None
    chosen = evaluation.sliced["document"]
    pairs = [
        (
            result.arm.name,
            100 * float(result.scores["corpus"][MAIN_MEASURE][chosen].mean()),
            100 * float(result.scores["document"][MAIN_MEASURE][chosen].mean()),
        )
        for result in evaluation.results
    ]
    values = [value for _, *both in pairs for value in both]
    axis = make_axis(min(values), max(values))
    rows = tuple(
        SliceRow(
            name,
            _TOP + _ROW * number + _ROW / 2,
            axis.place(corpus),
            axis.place(document),
            f"{corpus:.1f} / {document:.1f}",
        )
        for number, (name, corpus, document) in enumerate(pairs)
    )
    return SlicePlot(axis, _TOP + _ROW * len(rows) + 40, rows)


def plot_queries(evaluation: Evaluation) -> QueryPlot | None:
    """Draw what the arm of the verdict gains and loses on each query; None without such an arm."""
    result = evaluation.result(evaluation.verdict.arm or "")
    base = evaluation.result(ISOLATED)
    if result is None or base is None:
        return None
    where = evaluation.main_slice
    differences = result.scores[where][MAIN_MEASURE] - base.scores[where][MAIN_MEASURE]
    ordered = 100 * np.sort(differences[evaluation.sliced[where]])[::-1]
    height, zero, half = 240.0, 120.0, 100.0
    extent = max(10.0, float(np.abs(ordered).max()))
    wins, losses = int((ordered > 0).sum()), int((ordered < 0).sum())
    step = (WIDTH - 60) / len(ordered)

    def outline(first: int, last: int) -> str:
        if first == last:
            return ""
        points = [f"M{50 + first * step:.1f},{zero:.1f}"]
        for index in range(first, last):
            y = zero - ordered[index] / extent * half
            points.append(f"L{50 + index * step:.1f},{y:.1f}L{50 + (index + 1) * step:.1f},{y:.1f}")
        return "".join([*points, f"L{50 + last * step:.1f},{zero:.1f}Z"])

    return QueryPlot(
        arm=result.arm.name,
        won=outline(0, wins),
        lost=outline(len(ordered) - losses, len(ordered)),
        wins=wins,
        ties=len(ordered) - wins - losses,
        losses=losses,
        bounds=(round(50 + wins * step, 1), round(50 + (len(ordered) - losses) * step, 1)),
        zero=zero,
        height=height,
        extent=round(extent),
    )


def make_axis(low: float, high: float) -> Axis:
    """Choose round ends and ticks around two values."""
    span = max(high - low, 1.0)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 8)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    ticks = tuple(round(number * step, 6) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], _LEFT, WIDTH - _RIGHT, ticks)


def sign_of(difference: Difference) -> Sign:
    """Say on which side of zero an interval lies."""
    return "up" if difference.low > 0 else "down" if difference.high < 0 else "open"


def describe(difference: Difference | None) -> str:
    """Write a difference with its interval, in points."""
    if difference is None:
        return "–"
    values: Sequence[float] = (difference.mean, difference.low, difference.high)
    mean, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in values)
    return f"{mean} [{low}, {high}]"
