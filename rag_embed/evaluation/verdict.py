"""One sentence: how should these documents be searched?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from rag_embed.evaluation.arms import Arm
from rag_embed.evaluation.bootstrap import detectable_effect, mean_interval, queries_needed

Decision = Literal["use", "simpler", "avoid", "undecided"]
Scores = Float[np.ndarray, " queries"]

USEFUL_EFFECT = 0.01
"""A gain below one point of nDCG@10 is not worth a second pass over the text."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do on this corpus.

    Attributes:
        decision: "use" context; something "simpler" is enough: words, or a title in front of each chunk;
            "avoid" context, since nothing gains; or "undecided".
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


@dataclass(frozen=True, slots=True)
class _Way:
    """An arm and what it does against isolated chunks."""

    arm: Arm
    scores: Scores
    gain: _Gain

    def over(self, other: _Way, confidence: float) -> _Gain:
        return _gain(self.scores - other.scores, confidence)


def decide(isolated: Scores, arms: Sequence[tuple[Arm, Scores]]) -> Verdict:
    """Choose the cheapest arm that is better than isolated chunks for sure and that the best does not beat.

    Intervals hold for all arms together (Bonferroni: 95 % divided among them), because the best of many is
    taken. Where the best arm is not above a cheaper one for sure, it is a tie, and the cheaper one is advised
    (`Arm.effort`).

    Args:
        isolated: nDCG@10 of each query with isolated chunks, searched by vectors.
        arms: The others, with the same of each.

    Returns:
        * "use": the chosen arm reads chunks in their documents.
        * "simpler": it does not; words, or titles, are enough.
        * "avoid": every contextual arm loses, or none can gain as much as one point.
        * "undecided": a gain worth having is neither shown nor ruled out.
    """
    if not arms or len(isolated) < 2:
        return Verdict(
            "undecided",
            f"Nothing was decided: {len(arms)} arms were compared with isolated chunks on {len(isolated)} "
            "queries; it takes one arm and two queries at least.",
        )
    share = 1 - 0.05 / len(arms)
    ways = [_Way(arm, scores, _gain(scores - isolated, share)) for arm, scores in arms]
    ways.sort(key=lambda way: (way.arm.effort, -way.gain.mean, not way.arm.is_default))
    winners = [way for way in ways if way.gain.is_up]
    if winners:
        return _choose(winners, ways, share)
    return _decide_without_gain([way for way in ways if way.arm.is_contextual] or ways, isolated, share)


def _choose(winners: Sequence[_Way], ways: Sequence[_Way], share: float) -> Verdict:
    """Take the cheapest of the winners that ties with the best of them."""
    best = max(winners, key=lambda way: (way.gain.mean, way.arm.is_default))
    chosen = next(way for way in winners if way is best or not best.over(way, share).is_up)
    sentence = f"On these documents: {chosen.arm.advice}. That brings {chosen.gain} over isolated chunks"
    simpler = [way for way in ways if way.arm.effort < chosen.arm.effort]
    if simpler:
        rival = max(simpler, key=lambda way: way.gain.mean)
        over = chosen.over(rival, share)
        sentence += f" and {over} over the best of what costs less ({rival.arm.advice})"
        if not over.is_up:
            known = (
                "ranks below the best for sure" if rival.gain.is_up else "is not sure to gain anything itself"
            )
            sentence += f"; that difference may be chance, but the cheaper way {known}"
    sentence += "."
    if chosen is not best:
        sentence += (
            f" The best measured ({best.arm.advice}) stands {best.over(chosen, share)} above it, which may "
            "be chance, and costs more."
        )
    return Verdict("use" if chosen.arm.is_contextual else "simpler", sentence, chosen.arm.name)


def _decide_without_gain(ways: Sequence[_Way], isolated: Scores, confidence: float) -> Verdict:
    """No arm is shown to gain: is a gain worth having ruled out, or only not seen?"""
    best = max(ways, key=lambda way: (way.gain.mean, way.arm.is_default))
    name = best.arm.name
    keep = "search by meaning alone, without context"
    if all(way.gain.is_down for way in ways):
        return Verdict(
            "avoid",
            f"On these documents: {keep}. Every other way loses, the best of them ({best.arm.advice}) "
            f"{best.gain} against isolated chunks.",
            name,
        )
    if all(way.gain.high < USEFUL_EFFECT for way in ways):
        highest = max(way.gain.high for way in ways)
        return Verdict(
            "avoid",
            f"On these documents: {keep}. No context gains, and more than {100 * highest:+.1f} points over "
            f"isolated chunks are ruled out (best: {best.arm.advice}, {best.gain}).",
            name,
        )
    differences = best.scores - isolated
    needed = queries_needed(differences, 2 * USEFUL_EFFECT, confidence=confidence)
    smallest = detectable_effect(differences, confidence=confidence)
    return Verdict(
        "undecided",
        f"Undecided, so keep to the simplest: {keep}. The best other way ({best.arm.advice}) brings "
        f"{best.gain}, and {len(differences)} queries could have shown {100 * smallest:.1f} points at least; "
        f"about {needed:,} would show 2 points.",
        name,
    )


def _gain(differences: Scores, confidence: float) -> _Gain:
    return _Gain(*mean_interval(differences, confidence=confidence))
