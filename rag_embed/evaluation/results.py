"""What an evaluation found: numbers per arm, slice and query, and the settings behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from rag_embed.evaluation.arms import ISOLATED, TITLED, Arm
from rag_embed.evaluation.bootstrap import RESAMPLES, detectable_effect, mean_interval
from rag_embed.evaluation.costs import Cost, Costs
from rag_embed.evaluation.fitting import FittedWeights
from rag_embed.evaluation.metrics import MAIN_MEASURE
from rag_embed.evaluation.sets import Slice
from rag_embed.evaluation.verdict import Verdict

Scores = Float[np.ndarray, " queries"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of one measure between two arms.

    Attributes:
        mean: Over the queries.
        low: Lower bound of the 95 % interval.
        high: Its upper bound.
        detectable: The smallest true difference that these queries show with probability 0.8.
        wins: Queries on which the arm is better.
        losses: Queries on which it is worse.
    """

    mean: float
    low: float
    high: float
    detectable: float
    wins: int
    losses: int


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm.

    Attributes:
        arm: What it is.
        scores: Each measure of each query, by slice.
        firsts: The chunk that each query found first in the main slice; -1 for none.
    """

    arm: Arm
    scores: Mapping[Slice, Mapping[str, Scores]]
    firsts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Example:
    """A query on which the arm of the verdict differs most from isolated chunks.

    Attributes:
        query: Its text.
        kind: Its kind, if there are several.
        before: nDCG@10 of isolated chunks.
        after: nDCG@10 of the arm.
        gold: Text of an answer, and of which document.
        found_before: Text of the chunk that isolated chunks found first, and of which document.
        found_after: The same for the arm.
    """

    query: str
    kind: str
    before: float
    after: float
    gold: tuple[str, str]
    found_before: tuple[str, str]
    found_after: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was found.

    Attributes:
        name: Of the set.
        counts: Documents, chunks and queries.
        main_slice: The slice that the verdict is about.
        sliced: Which queries each slice is measured on; a slice in which nothing competes is absent.
        query_ids: In the order of all scores.
        kinds: Kind of each query; empty if there is one.
        results: Per arm.
        verdict: What to do.
        examples: Queries won and lost most.
        settings: Model, chunking and whatever else decides the numbers.
        warnings: What a reader must know.
        costs: Bytes, milliseconds and seconds of each arm, if they were measured.
        fitted: Weights that were fitted on the queries, if they were.
    """

    name: str
    counts: Mapping[str, int]
    main_slice: Slice
    sliced: Mapping[Slice, Bool[np.ndarray, " queries"]]
    query_ids: Sequence[str]
    kinds: Sequence[str]
    results: Sequence[ArmResult]
    verdict: Verdict
    examples: Sequence[Example]
    settings: Mapping[str, Any]
    warnings: Sequence[str]
    costs: Costs | None = None
    fitted: FittedWeights | None = None
    _differences: dict[tuple[str | None, ...], Difference | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def result(self, name: str) -> ArmResult | None:
        """Find an arm by name."""
        return next((result for result in self.results if result.arm.name == name), None)

    def cost(self, result: ArmResult) -> Cost | None:
        """Find what an arm costs; None if that was not measured."""
        return None if self.costs is None else self.costs.by_arm[result.arm.name]

    def mean(self, result: ArmResult, measure: str, where: Slice | None = None) -> float:
        """Average a measure over the queries of a slice."""
        where = where or self.main_slice
        return float(result.scores[where][measure][self.sliced[where]].mean())

    def difference(
        self,
        result: ArmResult,
        baseline: str,
        *,
        measure: str = MAIN_MEASURE,
        where: Slice | None = None,
        kind: str | None = None,
    ) -> Difference | None:
        """Compare an arm with another on the same queries.

        Returns:
            None if there is no such baseline, or if it is the arm itself.
        """
        where = where or self.main_slice
        key = (result.arm.name, baseline, measure, where, kind)
        if key not in self._differences:
            self._differences[key] = self._compare(result, baseline, measure, where, kind)
        return self._differences[key]

    def _compare(
        self, result: ArmResult, baseline: str, measure: str, where: Slice, kind: str | None
    ) -> Difference | None:
        other = self.result(baseline)
        if other is None or other is result:
            return None
        chosen = self.sliced[where]
        if kind is not None:
            chosen = chosen & (np.array(self.kinds) == kind)
        differences = (result.scores[where][measure] - other.scores[where][measure])[chosen]
        if not len(differences):
            return None
        return Difference(
            *mean_interval(differences),
            detectable=detectable_effect(differences),
            wins=int((differences > 0).sum()),
            losses=int((differences < 0).sum()),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values; texts only in the examples."""
        return {
            "set": self.name,
            **self.counts,
            "main_slice": self.main_slice,
            "verdict": asdict(self.verdict),
            "interval": f"95 % paired bootstrap over queries, {RESAMPLES} resamples",
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "costs": None if self.costs is None else self.costs.note,
            "fitted_weights": None if self.fitted is None else self.fitted.as_json(),
            "arms": [self._arm_as_json(result) for result in self.results],
            "examples": [asdict(example) for example in self.examples],
        }

    def _arm_as_json(self, result: ArmResult) -> dict[str, Any]:
        arm = result.arm
        return {
            "arm": arm.name,
            "options": dict(arm.options),
            "method": arm.method,
            "with_title": arm.with_title,
            "is_reranked": arm.is_reranked,
            "is_default": arm.is_default,
            "passes": arm.passes,
            "advice": arm.advice,
            "cost": None if (cost := self.cost(result)) is None else asdict(cost),
            "slices": {
                where: {measure: self.mean(result, measure, where) for measure in result.scores[where]}
                for where in self.sliced
            },
            "differences": {
                baseline: {
                    where: _as_json(self.difference(result, baseline, where=where)) for where in self.sliced
                }
                for baseline in (ISOLATED, TITLED)
                if self.difference(result, baseline) is not None
            },
            "kinds": {
                kind: _as_json(self.difference(result, ISOLATED, kind=kind))
                for kind in sorted(set(self.kinds))
            },
            "per_query": {
                query: round(float(value), 6)
                for query, value in zip(
                    self.query_ids, result.scores[self.main_slice][MAIN_MEASURE], strict=True
                )
            },
        }


def _as_json(difference: Difference | None) -> dict[str, float | int | None] | None:
    if difference is None:
        return None
    values = asdict(difference)
    return {**values, "detectable": values["detectable"] if np.isfinite(values["detectable"]) else None}
