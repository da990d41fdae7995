"""Train a low-rank adapter of an encoder's document side.

Hu et al. 2021, "LoRA", arXiv:2106.09685, through peft. The encoder stays frozen and goes on encoding queries
and isolated chunks, so every query vector and every isolated index stays valid.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from rag_embed.adapter import Adapter
from rag_embed.encoder import Encoder
from rag_embed.errors import InputError, MissingExtraError, NonFiniteError
from rag_embed.loading import load_encoder
from rag_embed.profiles import EMBEDDED_MODEL
from rag_embed.training.documents import TrainingDocument, TrainingWindow, WindowSampler, split_documents
from rag_embed.training.losses import LossOptions, contrastive_loss
from rag_embed.training.progress import Progress, Snapshot, load_weights
from rag_embed.training.vectors import Target, embed_windows


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How an adapter is trained.

    Attributes:
        rank: Of each linear layer's update.
        steps: At most; training stops earlier when the held-out loss does.
        windows_per_step: Documents in one step.
        window_tokens: Length of the windows, and of those the adapter is used with.
        head_tokens: Most tokens of the head.
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
    window_tokens: int = 384
    head_tokens: int = 64
    learning_rate: float = 1e-3
    held_out: float = 0.08
    check_every: int = 25
    patience: int = 3
    seed: int = 0
    loss: LossOptions = field(default_factory=LossOptions)


def train_adapter(
    documents: Sequence[TrainingDocument],
    folder: Path,
    *,
    model: str | Path = EMBEDDED_MODEL,
    options: TrainingOptions = TrainingOptions(),  # frozen
    start: Adapter | None = None,
    blend_alpha: float | None = None,
    card: dict[str, object] | None = None,
    on_step: Callable[[Snapshot], None] = lambda _: None,
) -> Path:
    """Train an adapter, or go on where an interrupted run of the same data and options stopped.

    Args:
        documents: With questions; a share of each source is held out.
        folder: For the adapter, and for the state of an unfinished run.
        model: The encoder that it is for.
        options: How it is trained.
        start: An adapter of the same rank to go on from, instead of from nothing.
        blend_alpha: With it, the vectors are held near the blend of `start` with isolated vectors, `start`
            having this share, so that one pass over the text does for two. Without, near the isolated
            vectors.
        card: What the adapter's card says beside figures and options, such as licences.
        on_step: Called after every step.

    Returns:
        The folder, which `ContextualEmbedding(adapter=...)` takes.

    Raises:
        InputError: There are too few documents, the adapter to start from has other layers or ranks, or the
            folder holds a run of other data or options.
        MissingExtraError: peft is not installed.
        NonFiniteError: The loss is not finite.
    """
    asked = [document for document in documents if document.pairs]
    train, held = split_documents(asked, held_out=options.held_out, seed=0)
    if len(train) < 2 or len(held) < 1:
        raise InputError(
            f"{len(asked)} documents with questions; expected at least 3, of which some are held out"
        )
    base = load_encoder(model, dtype="float32")
    student = Encoder(base.profile, device=base.device, dtype=torch.float32)
    trained = _inject(student, options, start)
    optimizer = torch.optim.AdamW(trained.values(), lr=options.learning_rate, weight_decay=0.01)
    target = Target(base, None, 0.0)
    if start is not None and blend_alpha is not None:
        target = Target(base, load_encoder(model, dtype="float32", adapter=start.folder), blend_alpha)
    sampler = _sampler(train, base, options)
    checks = _sampler(held, base, options)
    held_windows = [checks.draw(step) for step in range(checks.source_count)]

    progress = Progress(folder, digest=_digest(asked, base, options, start), steps=options.steps)
    progress.restore(trained, optimizer)
    while not progress.is_finished(patience=options.patience):
        step = progress.step
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _slope(step, options.steps)
        terms = contrastive_loss(embed_windows(target, student, sampler.draw(step)), options.loss)
        if not terms["total"].isfinite():
            raise NonFiniteError(
                f"the loss of step {step} is {float(terms['total'])}; expected a number. Lower the learning "
                f"rate ({options.learning_rate}) and look at the texts"
            )
        losses = {name: term.item() for name, term in terms.items()}
        optimizer.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        held_loss = None
        if (step + 1) % options.check_every == 0 or step + 1 == options.steps:
            held_loss = _held_out_loss(target, student, held_windows, options.loss)
        on_step(progress.record(losses, held_loss, trained))
        if held_loss is not None:
            progress.save(trained, optimizer)
    return progress.write_adapter(
        options={"r": options.rank, "lora_alpha": 2 * options.rank},
        card={
            **(card or {}),
            "base": {"name": base.profile.name, "sha256": base.profile.weights_sha256},
            "window_tokens": options.window_tokens,
            "head_tokens": options.head_tokens,
            "options": asdict(options),
            "start": start and {"name": start.name, "sha256": start.sha256},
            "documents": {"train": len(train), "held_out": len(held)},
        },
    )


def _inject(
    student: Encoder, options: TrainingOptions, start: Adapter | None
) -> dict[str, torch.nn.Parameter]:
    """Put trainable low-rank updates on all linear layers; all else is frozen."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("training needs peft; run pip install 'rag-embed[train]'") from error
    model = student.trainable_model()
    config = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules="all-linear",
        exclude_modules=r".*pooler.*",  # not used for token states
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        inject_adapter_in_model(config, model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if start is not None:
        load_weights(trained, start)
    return trained


def _sampler(
    documents: Sequence[TrainingDocument], encoder: Encoder, options: TrainingOptions
) -> WindowSampler:
    return WindowSampler(
        documents,
        encoder,
        window_tokens=options.window_tokens,
        head_tokens=options.head_tokens,
        windows_per_step=options.windows_per_step,
        seed=options.seed,
    )


@torch.no_grad()
def _held_out_loss(
    target: Target, student: Encoder, batches: Sequence[Sequence[TrainingWindow]], options: LossOptions
) -> float:
    totals = [contrastive_loss(embed_windows(target, student, batch), options)["total"] for batch in batches]
    return float(torch.stack(totals).mean())


def _slope(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over the first tenth, then down in a line."""
    warmup = math.ceil(0.1 * steps)
    return min((step + 1) / warmup, (steps - step) / max(steps - warmup, 1))


def _digest(
    documents: Sequence[TrainingDocument], base: Encoder, options: TrainingOptions, start: Adapter | None
) -> str:
    """What a run depends on; only a run of the same is gone on with."""
    content = [base.profile.weights_sha256, start and start.sha256, asdict(options)]
    digest = hashlib.sha256(json.dumps(content).encode())
    for document in documents:
        digest.update(json.dumps(asdict(document), sort_keys=True).encode())
    return digest.hexdigest()
