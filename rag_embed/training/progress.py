"""The state of a training run: its losses, its best weights, and what an interrupted run needs to go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from rag_embed.adapter import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, Adapter
from rag_embed.errors import InputError

_STATE_FILE = "unfinished.pt"


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


class Progress:
    """Losses so far and the best weights so far.

    Args:
        folder: Of the adapter.
        digest: Names data and options; another run's state is refused.
        steps: At most.
    """

    def __init__(self, folder: Path, *, digest: str, steps: int) -> None:
        self._folder = folder
        self._digest = digest
        self._steps = steps
        self._curve: list[tuple[int, float, float | None]] = []
        self._best: dict[str, Float[Tensor, "..."]] = {}
        self._best_step = 0
        self._best_loss = float("inf")
        self._checks_since_best = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self._curve)

    def is_finished(self, *, patience: int) -> bool:
        """Whether all steps are done, or the held-out loss has not fallen for `patience` checks."""
        return self.step >= self._steps or self._checks_since_best >= patience

    def record(
        self,
        losses: Mapping[str, float],
        held_out_loss: float | None,
        weights: Mapping[str, Float[Tensor, "..."]],
    ) -> Snapshot:
        """Take in a step; weights of the lowest held-out loss are kept."""
        self._curve.append((self.step + 1, losses["total"], held_out_loss))
        if held_out_loss is not None:
            self._checks_since_best += 1
            if held_out_loss < self._best_loss:
                self._best_loss, self._best_step, self._checks_since_best = held_out_loss, self.step, 0
                self._best = {name: weight.detach().clone() for name, weight in weights.items()}
        return Snapshot(self.step, self._steps, losses, held_out_loss)

    def save(self, weights: Mapping[str, Float[Tensor, "..."]], optimizer: torch.optim.Optimizer) -> None:
        """Write the state in one go: an interrupt leaves the old one or the new one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {
            "digest": self._digest,
            "weights": {name: weight.detach() for name, weight in weights.items()},
            "optimizer": optimizer.state_dict(),
            "curve": self._curve,
            "best": self._best,
            "best_step": self._best_step,
            "best_loss": self._best_loss,
            "checks_since_best": self._checks_since_best,
        }
        unfinished = self._folder / f"{_STATE_FILE}.new"
        torch.save(state, unfinished)
        unfinished.replace(self._folder / _STATE_FILE)

    def restore(self, weights: Mapping[str, Float[Tensor, "..."]], optimizer: torch.optim.Optimizer) -> None:
        """Go on with the state in the folder, if there is one.

        Raises:
            InputError: It is of other data or options, or the folder holds a finished adapter.
        """
        if (self._folder / WEIGHTS_FILE).exists():
            raise InputError(
                f"{self._folder} holds a finished adapter; expected an empty folder or an unfinished run. "
                "Choose another folder"
            )
        if not (self._folder / _STATE_FILE).is_file():
            return
        state = torch.load(self._folder / _STATE_FILE, weights_only=True)
        if state["digest"] != self._digest:
            raise InputError(
                f"{self._folder} holds an unfinished run of other data or options; expected the same. "
                f"Choose another folder, or delete {_STATE_FILE} to begin anew"
            )
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        self._curve = state["curve"]
        self._best = state["best"]
        self._best_step = state["best_step"]
        self._best_loss = state["best_loss"]
        self._checks_since_best = state["checks_since_best"]

    def write_adapter(self, *, options: Mapping[str, object], card: Mapping[str, object]) -> Path:
        """Write the best weights in peft's layout, half precision, with their card; drop the run's state."""
        tensors = {
            _file_name(parameter): weight.half().contiguous().cpu()
            for parameter, weight in self._best.items()
        }
        layers = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors})
        config = {"peft_type": "LORA", "target_modules": layers, "exclude_modules": r".*pooler.*", **options}
        full_card = {
            **card,
            "best_step": self._best_step,
            "held_out_loss": self._best_loss,
            "loss_curve": self._curve,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        for file, content in ((CONFIG_FILE, config), (CARD_FILE, full_card)):
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (self._folder / file).write_text(text, encoding="utf-8")
        # The weights come last: a folder with weights is a finished adapter.
        unfinished = self._folder / f"{WEIGHTS_FILE}.new"
        save_file(tensors, unfinished)
        unfinished.replace(self._folder / WEIGHTS_FILE)
        (self._folder / _STATE_FILE).unlink(missing_ok=True)
        return self._folder


def load_weights(weights: Mapping[str, Float[Tensor, "..."]], adapter: Adapter) -> None:
    """Copy a finished adapter's weights into parameters of the same names and shapes.

    Raises:
        InputError: The adapter has other layers or another rank.
    """
    saved = load_file(adapter.folder / WEIGHTS_FILE)
    expected = {_file_name(name): tuple(weight.shape) for name, weight in weights.items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in saved.items()}:
        raise InputError(
            f"adapter {adapter.name!r} has other layers or another rank than the one to be trained; expected "
            f"{len(expected)} tensors, the first of shape {next(iter(expected.values()))}. Train with the "
            "rank of the adapter to start from, or from nothing"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[_file_name(name)])


def _file_name(parameter: str) -> str:
    """The name that peft gives a parameter in its files."""
    return f"base_model.model.{parameter.replace('.default', '')}"
