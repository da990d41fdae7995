"""How far a training run is: its losses so far, and its best weights so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from rag_embed.errors import NonFiniteError

Weights = Mapping[str, Float[Tensor, "..."]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One step.

    Attributes:
        step: Steps done.
        steps: Steps at most.
        losses: The terms of the step's loss.
        held_out_loss: On held-out documents, where it was checked.
    """

    step: int
    steps: int
    losses: Mapping[str, float]
    held_out_loss: float | None


@dataclass(slots=True)
class Progress:
    """What a run has come to; an interrupted one goes on with the same.

    Attributes:
        curve: For each step its number, its loss, and the held-out loss where it was checked.
        best: Weights of the lowest held-out loss.
        best_step: When that was.
        best_loss: What it was.
        checks_since_best: Checks without a lower one since.
    """

    curve: list[tuple[int, float, float | None]] = field(default_factory=list)
    best: dict[str, Float[Tensor, "..."]] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = math.inf
    checks_since_best: int = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.curve)

    def is_finished(self, *, steps: int, patience: int) -> bool:
        """Whether all steps are done, or the held-out loss has not fallen for `patience` checks."""
        return self.step >= steps or self.checks_since_best >= patience

    def record(self, losses: Mapping[str, float], held_out_loss: float | None, weights: Weights) -> None:
        """Take in a step; the weights of the lowest held-out loss are kept.

        Raises:
            NonFiniteError: The held-out loss is not finite, so that no weights would ever be the best.
        """
        if held_out_loss is not None and not math.isfinite(held_out_loss):
            raise NonFiniteError(
                f"the held-out loss after step {self.step + 1} is {held_out_loss}; expected a number. Lower "
                "the learning rate and look at the texts"
            )
        self.curve.append((self.step + 1, losses["total"], held_out_loss))
        if held_out_loss is not None:
            self.checks_since_best += 1
            if held_out_loss < self.best_loss:
                self.best_loss, self.best_step, self.checks_since_best = held_out_loss, self.step, 0
                self.best = {name: weight.detach().clone() for name, weight in weights.items()}
