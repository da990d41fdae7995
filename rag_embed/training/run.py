"""An adapter in training: the weights, their optimizer, and what each step is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rag_embed.adapter import WEIGHTS_FILE, Adapter
from rag_embed.encoder import Encoder
from rag_embed.errors import InputError, MissingExtraError, NonFiniteError, UnsupportedModelError
from rag_embed.shared_layers import SharedLayers, layers_of
from rag_embed.training.documents import TrainingDocument, TrainingWindow, WindowSampler
from rag_embed.training.losses import LossOptions, contrastive_loss
from rag_embed.training.progress import Weights
from rag_embed.training.run_folder import name_in_file
from rag_embed.training.vectors import Target, embed_windows

_EXCLUDED_LAYERS = r".*pooler.*"  # not used for token states


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How an adapter is trained.

    Attributes:
        rank: Of each linear layer's update.
        steps: At most; training stops earlier when the held-out loss does.
        windows_per_step: How many are trained on in one step.
        windows_per_document: At most so many of them are of one document (`WindowSampler`).
        window_tokens: Length of the windows, and of those the adapter is used with.
        head_tokens: Most tokens of the head.
        shared_layers: Lower layers that are left untouched, so that chunks are read alone and in their window
            in one pass (`rag_embed.shared_layers`); 0 adapts the whole encoder.
        learning_rate: Peak; reached after a tenth of the steps, then falling to zero in a line.
        held_out: Share of the documents that the loss is checked on.
        check_every: Steps between checks.
        patience: Checks without a better loss before training stops.
        seed: Of the first weights and of the order.
        loss: Weights of the loss's terms.
    """

    rank: int = 16
    steps: int = 150
    windows_per_step: int = 24
    windows_per_document: int = 1
    window_tokens: int = 384
    head_tokens: int = 64
    shared_layers: int = 0
    learning_rate: float = 1e-3
    held_out: float = 0.08
    check_every: int = 25
    patience: int = 3
    seed: int = 0
    loss: LossOptions = field(default_factory=LossOptions)

    def as_dict(self) -> dict[str, Any]:
        """All of them as JSON values."""
        return asdict(self)


DEFAULT_OPTIONS = TrainingOptions()


class TrainingRun:
    """Everything that a step needs, made from data and options alone.

    A step depends on its number and on the weights before it, so a run that is resumed with its weights ends
    like one that was never interrupted.

    Args:
        target: What the vectors are held near; its base is what is adapted.
        train: Documents to train on.
        held_out: Documents that the loss is checked on.
        options: How it is trained.
        start: An adapter of the same rank to go on from.
    """

    def __init__(
        self,
        target: Target,
        train: Sequence[TrainingDocument],
        held_out: Sequence[TrainingDocument],
        *,
        options: TrainingOptions,
        start: Adapter | None,
    ) -> None:
        base = target.base
        self._options = options
        self._target = target
        encoder = Encoder(base.profile, device=base.device, dtype=torch.float32)
        model = encoder.trainable_model()
        self.weights = _inject(model, options, name=base.profile.name)
        self._student: Encoder | SharedLayers = encoder
        if options.shared_layers:
            upper = layers_of(model, name=base.profile.name)[options.shared_layers :]
            self._student = SharedLayers(base, upper)
        if start is not None:
            load_weights(self.weights, start)
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=options.learning_rate, weight_decay=0.01)
        self._sampler = _make_sampler(train, base, options)
        checks = _make_sampler(held_out, base, options)
        self._held_out = [checks.draw(step) for step in range(checks.source_count)]

    def take_step(self, step: int) -> dict[str, float]:
        """Train on the windows of a step.

        Returns:
            The terms of the loss before the step.

        Raises:
            NonFiniteError: The loss is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._options.learning_rate * _slope(step, self._options.steps)
        terms = self._loss(self._sampler.draw(step))
        if not terms["total"].isfinite():
            raise NonFiniteError(
                f"the loss of step {step} is {float(terms['total'])}; expected a number. Lower the learning "
                f"rate ({self._options.learning_rate}) and look at the texts"
            )
        losses = {name: term.item() for name, term in terms.items()}
        self.optimizer.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.optimizer.step()
        return losses

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The loss on the documents that are held out, a mean over their sources."""
        return float(torch.stack([self._loss(windows)["total"] for windows in self._held_out]).mean())

    def _loss(self, windows: Sequence[TrainingWindow]) -> dict[str, Tensor]:
        options = self._options.loss
        batch = embed_windows(self._target, self._student, windows, with_tokens=options.tokens > 0)
        return contrastive_loss(batch, options)

    @property
    def config(self) -> dict[str, Any]:
        """What peft's configuration file says of the weights."""
        layers = {name_in_file(name).split(".lora_")[0].rsplit(".", 1)[-1] for name in self.weights}
        return {
            "peft_type": "LORA",
            "target_modules": sorted(layers),
            "exclude_modules": _EXCLUDED_LAYERS,
            "r": self._options.rank,
            "lora_alpha": 2 * self._options.rank,
        }


def load_weights(weights: Weights, adapter: Adapter) -> None:
    """Copy a finished adapter's weights into parameters of the same names and shapes.

    Raises:
        InputError: The adapter has other layers or another rank.
        UnsupportedModelError: Its file is damaged.
    """
    path = adapter.folder / WEIGHTS_FILE
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UnsupportedModelError(f"{path} cannot be read ({error}); the file is damaged") from error
    expected = {name_in_file(name): tuple(weight.shape) for name, weight in weights.items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in saved.items()}:
        raise InputError(
            f"adapter {adapter.name!r} has other layers or another rank than the one to be trained; expected "
            f"{len(expected)} tensors, the first of shape {next(iter(expected.values()))}. Train with the "
            "rank of the adapter to start from, or from nothing"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name_in_file(name)])


def _inject(model: torch.nn.Module, options: TrainingOptions, *, name: str) -> dict[str, torch.nn.Parameter]:
    """Put trainable low-rank updates on all linear layers above the shared ones; all else is frozen."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("training needs peft; run pip install 'rag-embed[train]'") from error
    targets: str | list[str] = "all-linear"
    if options.shared_layers:
        upper = {id(layer) for layer in layers_of(model, name=name)[options.shared_layers :]}
        targets = [
            f"{place}.{inner}"
            for place, layer in model.named_modules()
            if id(layer) in upper
            for inner, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=targets,
        exclude_modules=_EXCLUDED_LAYERS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        inject_adapter_in_model(config, model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _make_sampler(
    documents: Sequence[TrainingDocument], encoder: Encoder, options: TrainingOptions
) -> WindowSampler:
    return WindowSampler(
        documents,
        encoder,
        window_tokens=options.window_tokens,
        head_tokens=options.head_tokens,
        windows_per_step=options.windows_per_step,
        windows_per_document=options.windows_per_document,
        seed=options.seed,
    )


def _slope(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over the first tenth, then down in a line."""
    warmup = math.ceil(0.1 * steps)
    return min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1))
