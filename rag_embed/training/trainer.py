"""Train a low-rank adapter of an encoder's document side.

Hu et al. 2021, "LoRA", arXiv:2106.09685, through peft. The encoder stays frozen and goes on encoding queries
and isolated chunks, so every query vector and every isolated index stays valid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rag_embed.adapter import Adapter
from rag_embed.errors import InputError
from rag_embed.loading import load_encoder
from rag_embed.profiles import EMBEDDED_MODEL
from rag_embed.training.documents import TrainingDocument, split_documents
from rag_embed.training.progress import Snapshot
from rag_embed.training.run import DEFAULT_OPTIONS, TrainingOptions, TrainingRun
from rag_embed.training.run_folder import RunFolder
from rag_embed.training.vectors import Target

__all__ = ["TrainingOptions", "train_adapter"]


def train_adapter(
    documents: Sequence[TrainingDocument],
    folder: Path,
    *,
    model: str | Path = EMBEDDED_MODEL,
    options: TrainingOptions = DEFAULT_OPTIONS,
    start: Adapter | None = None,
    blend_alpha: float | None = None,
    card: Mapping[str, object] | None = None,
    on_step: Callable[[Snapshot], None] = lambda _: None,
) -> Path:
    """Train an adapter, or go on where an interrupted run of the same data and options stopped.

    A run that had ended already is left as it is, so that whoever is interrupted afterwards can begin again.

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
            folder cannot be written or holds what a run of other data or options left.
        MissingExtraError: peft is not installed.
        NonFiniteError: The loss is not finite.
    """
    asked = [document for document in documents if document.pairs]
    train, held_out = split_documents(asked, held_out=options.held_out, seed=0)
    if len(train) < 2 or len(held_out) < 1:
        raise InputError(
            f"{len(asked)} documents with questions; expected at least 3, of which some are held out"
        )
    target = _make_target(model, start, blend_alpha)
    run_folder = RunFolder(folder, digest=_digest(asked, target, options, start))
    if run_folder.is_finished():
        return folder
    run = TrainingRun(target, train, held_out, options=options, start=start)
    progress = run_folder.restore(run.weights, run.optimizer)
    while not progress.is_finished(steps=options.steps, patience=options.patience):
        losses = run.take_step(progress.step)
        done = progress.step + 1
        is_checked = done % options.check_every == 0 or done == options.steps
        held_out_loss = run.held_out_loss() if is_checked else None
        progress.record(losses, held_out_loss, run.weights)
        on_step(Snapshot(done, options.steps, losses, held_out_loss))
        if is_checked:
            run_folder.write_state(progress, run.weights, run.optimizer)
    run_folder.write_adapter(
        progress.best,
        config=run.config,
        card={
            **(card or {}),
            "base": {"name": target.base.profile.name, "sha256": target.base.profile.weights_sha256},
            "window_tokens": options.window_tokens,
            "head_tokens": options.head_tokens,
            "shared_layers": options.shared_layers,
            "options": options.as_dict(),
            "start": start and {"name": start.name, "sha256": start.sha256},
            "documents": {"train": len(train), "held_out": len(held_out)},
            "best_step": progress.best_step,
            "held_out_loss": progress.best_loss,
            "loss_curve": progress.curve,
        },
    )
    return folder


def _make_target(model: str | Path, start: Adapter | None, blend_alpha: float | None) -> Target:
    base = load_encoder(model, dtype="float32")
    if start is None or blend_alpha is None:
        return Target(base, None, 0.0)
    return Target(base, load_encoder(model, dtype="float32", adapter=start.folder), blend_alpha)


def _digest(
    documents: Sequence[TrainingDocument], target: Target, options: TrainingOptions, start: Adapter | None
) -> str:
    """What a run depends on; only a run of the same is gone on with."""
    profile = target.base.profile
    content = [
        profile.digest,
        profile.query_prefix,
        start and start.sha256,
        target.alpha,
        options.as_dict(),
    ]
    digest = hashlib.sha256(json.dumps(content).encode())
    for document in documents:
        digest.update(json.dumps(asdict(document), sort_keys=True).encode())
    return digest.hexdigest()
