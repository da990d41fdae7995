"""One sentence: does context pay here?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from rag_embed.evaluation.bootstrap import detectable_effect, mean_interval, queries_needed

Decision = Literal["use", "prefix", "avoid", "undecided"]
Scores = Float[np.ndarray, " queries"]

USEFUL_EFFECT = 0.01
"""A gain below one point of nDCG@10 is not worth a second pass over the text."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do on this corpus.

    Attributes:
        decision: "use" context; a title "prefix" is enough; "avoid" context; or "undecided".
        sentence: The same for people, with numbers in points (hundredths).
        arm: The arm that it is about; None if about all of them.
    """

    decision: Decision
    sentence: str
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class _Gain:
    """A mean difference with its interval."""

    mean: float
    low: float
    high: float

    @property
    def is_up(self) -> bool:
        return self.low > 0

    @property
    def is_down(self) -> bool:
        return self.high < 0

    def __str__(self) -> str:
        mean, low, high = (
            f"{100 * value:+.1f}".replace("-", "−") for value in (self.mean, self.low, self.high)
        )
        return f"{mean} points [{low}, {high}]"


def decide(
    isolated: Scores,
    contextual: Mapping[str, Scores],
    *,
    titled: Scores | None = None,
    default: str | None = None,
) -> Verdict:
    """Compare contextual arms with isolated chunks and with the cheap rival, a title before the chunk.

    Intervals hold for all contextual arms together (Bonferroni: 95 % divided among them), because the best of
    many is taken.

    Args:
        isolated: nDCG@10 of each query.
        contextual: The same for each contextual arm.
        titled: The same for the title and the chunk alone; None if documents have no titles.
        default: The arm that wins a tie, because it needs no choosing.

    Returns:
        * "use": an arm is better than isolated and not worse than the title prefix, of which one of the two
          is beaten for sure by it; the sentence says which.
        * "prefix": the title prefix is better than isolated, and no arm is better than the prefix.
        * "avoid": every arm loses, or none can gain as much as one point.
        * "undecided": a gain worth having is neither shown nor ruled out.
    """
    if not contextual or len(isolated) < 2:
        return Verdict(
            "undecided",
            f"Nothing was decided: {len(contextual)} contextual arms were compared on {len(isolated)} "
            "queries; it takes one arm and two queries at least.",
        )
    share = 1 - 0.05 / len(contextual)
    gains = {name: _gain(scores - isolated, share) for name, scores in contextual.items()}
    over_title = (
        {} if titled is None else {name: _gain(scores - titled, share) for name, scores in contextual.items()}
    )
    prefix = None if titled is None else _gain(titled - isolated, 0.95)
    order = sorted(contextual, key=lambda name: (-gains[name].mean, name != default))
    best = order[0]
    if winners := [name for name in order if gains[name].is_up]:
        return _decide_between(winners, gains, over_title, prefix)
    if prefix is not None and prefix.is_up:
        return Verdict(
            "prefix",
            f"A title in front of each chunk is enough: it brings {prefix} over isolated chunks, and no "
            f"contextual arm is shown to bring anything (best: {best}, {gains[best]}).",
            best,
        )
    return _decide_without_gain(best, gains, contextual[best] - isolated, share)


def _decide_without_gain(
    best: str, gains: Mapping[str, _Gain], differences: Scores, confidence: float
) -> Verdict:
    """No arm is shown to gain: is a gain worth having ruled out, or only not seen?"""
    if all(gain.is_down for gain in gains.values()):
        return Verdict(
            "avoid",
            f"Do not use context here: every contextual arm loses, the best of them ({best}) {gains[best]} "
            "against isolated chunks.",
            best,
        )
    if all(gain.high < USEFUL_EFFECT for gain in gains.values()):
        highest = max(gain.high for gain in gains.values())
        return Verdict(
            "avoid",
            f"Do not use context here: no arm gains, and more than {100 * highest:+.1f} points over isolated "
            f"chunks are ruled out (best: {best}, {gains[best]}).",
            best,
        )
    needed = queries_needed(differences, 2 * USEFUL_EFFECT, confidence=confidence)
    smallest = detectable_effect(differences, confidence=confidence)
    return Verdict(
        "undecided",
        f"Undecided, so keep isolated chunks: {best} brings {gains[best]}, and {len(differences)} queries "
        f"could have shown {100 * smallest:.1f} points at least; about {needed:,} would show 2 points.",
        best,
    )


def _decide_between(
    winners: Sequence[str], gains: Mapping[str, _Gain], over_title: Mapping[str, _Gain], prefix: _Gain | None
) -> Verdict:
    """Some arms beat isolated chunks: do they also beat the title prefix?"""
    if prefix is None:
        best = winners[0]
        return Verdict(
            "use",
            f"Use context here: {best} brings {gains[best]} over isolated chunks (there are no titles to "
            "compare with).",
            best,
        )
    best = max(winners, key=lambda name: over_title[name].low)
    if over_title[best].is_up:
        return Verdict(
            "use",
            f"Use context here: {best} brings {gains[best]} over isolated chunks and {over_title[best]} over "
            "a title in front of each chunk.",
            best,
        )
    best = winners[0]
    if prefix.is_up or over_title[best].is_down:
        return Verdict(
            "prefix",
            f"A title in front of each chunk is enough: it brings {prefix} over isolated chunks, and {best} "
            f"is not shown to be better than it ({over_title[best]}).",
            best,
        )
    return Verdict(
        "use",
        f"Use context here: {best} brings {gains[best]} over isolated chunks; against a title in front of "
        f"each chunk it is undecided ({over_title[best]}), which itself brings {prefix}.",
        best,
    )


def _gain(differences: Scores, confidence: float) -> _Gain:
    return _Gain(*mean_interval(differences, confidence=confidence))
