"""Timing that compares fairly: contestants take turns in one process, round by round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Race:
    """Seconds of each contestant in each round; a slow moment of the machine hits all of a round alike.

    Attributes:
        seconds: By contestant, in the order of the rounds.
    """

    seconds: Mapping[str, list[float]]

    @classmethod
    def run(cls, contestants: Mapping[str, Callable[[], object]], *, rounds: int) -> Race:
        """Let every contestant run once per round; the one to begin changes from round to round."""
        names = list(contestants)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        gc.collect()
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                begin = time.perf_counter()
                contestants[name]()
                seconds[name].append(time.perf_counter() - begin)
        return cls(seconds)

    def median_s(self, name: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.seconds[name])

    def min_s(self, name: str) -> float:
        """Fastest round: the least disturbed one."""
        return min(self.seconds[name])

    def fastest(self, prefix: str = "") -> str:
        """Name of the contestant with the smallest median, among those whose name begins so."""
        return min((name for name in self.seconds if name.startswith(prefix)), key=self.median_s)

    def speed_up(self, name: str, over: str) -> tuple[float, float, float]:
        """How many times faster than another: median, smallest and largest of the rounds' ratios."""
        ratios = [b / a for a, b in zip(self.seconds[name], self.seconds[over], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)
