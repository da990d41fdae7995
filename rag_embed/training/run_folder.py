"""The folder of a training run: the state of an unfinished one, or the adapter that it ended with.

Every file is written under another name and then renamed, so that whatever ends the process leaves the old
file or the new one. The adapter's weights come last: a folder that holds them holds a finished adapter.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rag_embed.adapter import CARD_FILE, CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE
from rag_embed.errors import InputError
from rag_embed.training.progress import Progress, Weights

STATE_FILE = "unfinished.safetensors"
_DRAFT = ".new"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a weight that ever had a gradient

Tensors = dict[str, Float[Tensor, "..."]]


class RunFolder:
    """Where a run keeps what it needs to go on, and what it ends with.

    Args:
        folder: Made if it is not there.
        digest: Names everything that the run depends on; what another run left is refused.

    Raises:
        InputError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._unwritable("permission denied")

    def is_finished(self) -> bool:
        """Whether the adapter of this very run is there.

        Raises:
            InputError: The folder holds another adapter.
        """
        if not (self._folder / WEIGHTS_FILE).exists():
            return False
        try:
            card = json.loads((self._folder / CARD_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            card = None
        if not isinstance(card, dict) or card.get("run") != self._digest:
            raise InputError(
                f"{self._folder} holds a finished adapter of other documents, options or model; expected an "
                "empty folder, or a run of the same. Choose another folder"
            )
        self._tidy()
        return True

    def write_state(self, progress: Progress, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
        """Keep all that the run needs to go on from here."""
        tensors = {f"weights/{name}": weight for name, weight in weights.items()}
        tensors |= {f"best/{name}": weight for name, weight in progress.best.items()}
        for name, weight in weights.items():
            tensors |= {f"{key}/{name}": value for key, value in optimizer.state[weight].items()}
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        facts = json.dumps(
            {
                "curve": progress.curve,
                "best_step": progress.best_step,
                "best_loss": progress.best_loss,
                "checks_since_best": progress.checks_since_best,
            }
        )
        labels = {"run": self._digest, "facts": facts, "sha256": _hash(facts, tensors)}
        self._write(STATE_FILE, save(tensors, labels))

    def restore(self, weights: Weights, optimizer: torch.optim.Optimizer) -> Progress:
        """Bring back what `write_state` kept, if there is anything.

        Args:
            weights: Are set to what they were.
            optimizer: Gets its moments back.

        Returns:
            How far the run was; a new beginning if nothing was kept.

        Raises:
            InputError: The state is another run's, or damaged.
        """
        path = self._folder / STATE_FILE
        if not path.is_file():
            return Progress()
        try:
            labels, tensors = _read(path)
            if labels["run"] != self._digest:
                raise InputError(
                    f"{self._folder} holds an unfinished run of other documents, options or model; expected "
                    f"the same. Choose another folder, or delete {STATE_FILE} to begin anew"
                )
            if labels["sha256"] != _hash(labels["facts"], tensors):
                raise ValueError("its checksum is wrong")
            facts = json.loads(labels["facts"])
            best = {name: tensors[f"best/{name}"] for name in weights}
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(tensors[f"weights/{name}"])
                    optimizer.state[weight] = {
                        key: tensors[f"{key}/{name}"] for key in _MOMENTS if f"{key}/{name}" in tensors
                    }
            facts["curve"] = [(step, loss, held_out) for step, loss, held_out in facts["curve"]]
            return Progress(best=best, **facts)
        except InputError:
            raise
        except (SafetensorError, OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({type(error).__name__}: {error}); expected the state of an unfinished "
                "run. Delete it to begin anew, or choose another folder"
            ) from error

    def write_adapter(self, weights: Weights, *, config: Mapping[str, Any], card: Mapping[str, Any]) -> None:
        """Write the adapter in peft's layout, half precision, with its card; drop the run's state."""
        tensors = {name_in_file(name): weight.half().contiguous().cpu() for name, weight in weights.items()}
        for file, content in ((CONFIG_FILE, config), (CARD_FILE, {**card, "run": self._digest})):
            self._write(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        self._write(WEIGHTS_FILE, save(tensors))
        self._tidy()

    def _write(self, file: str, content: bytes) -> None:
        draft = self._folder / f"{file}{_DRAFT}"
        try:
            with draft.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            draft.replace(self._folder / file)
        except OSError as error:
            raise self._unwritable(error) from error

    def _tidy(self) -> None:
        """Remove what an unfinished run leaves."""
        for file in (STATE_FILE, f"{STATE_FILE}{_DRAFT}", f"{WEIGHTS_FILE}{_DRAFT}"):
            (self._folder / file).unlink(missing_ok=True)

    def _unwritable(self, reason: OSError | str) -> InputError:
        return InputError(
            f"{self._folder} cannot be written ({reason}); expected a folder for the adapter. Choose another "
            "folder, or mend this one and run the same again"
        )


def name_in_file(parameter: str) -> str:
    """The name that peft gives a parameter in its files."""
    return f"{PEFT_PREFIX}{parameter.replace('.default', '')}"


def _read(path: Path) -> tuple[dict[str, str], Tensors]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _hash(facts: str, tensors: Mapping[str, Float[Tensor, "..."]]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
