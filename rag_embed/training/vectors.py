"""The vectors of one training step: questions and targets frozen, windows with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rag_embed.encoder import Encoder
from rag_embed.late_chunking import embed_isolated
from rag_embed.pooling import blend
from rag_embed.training.documents import TrainingWindow
from rag_embed.training.losses import BatchVectors


@dataclass(frozen=True, slots=True)
class Target:
    """What the vectors in training are held near.

    Attributes:
        base: The untouched encoder.
        teacher: Reads windows; None holds near the isolated vectors alone.
        alpha: Share of the teacher.
    """

    base: Encoder
    teacher: Encoder | None
    alpha: float

    def embed(self, windows: Sequence[TrainingWindow]) -> tuple[list[int], Float[Tensor, "held dim"]]:
        """Rows of the chunks that are held, counted over all windows, and the vectors they are held near."""
        if self.teacher is None:
            # One chunk of each window: more would cost as much as the windows.
            first_rows = np.cumsum([0, *(len(window.chunks) for window in windows)]).tolist()
            rows = [row + window.golds[0] for row, window in zip(first_rows, windows, strict=False)]
            return rows, embed_isolated(self.base, [w.document.head + w.text(w.golds[0]) for w in windows])
        with torch.no_grad():
            late = _pool(self.teacher, windows)
        texts = [window.text(position) for window in windows for position in range(len(window.chunks))]
        return list(range(len(texts))), blend(late, embed_isolated(self.base, texts), self.alpha)


def embed_windows(target: Target, student: Encoder, windows: Sequence[TrainingWindow]) -> BatchVectors:
    """Embed one step: questions and targets frozen, windows with gradients."""
    prefix = target.base.profile.query_prefix
    questions = [prefix + question for window in windows for question in window.questions]
    owners = [number for number, window in enumerate(windows) for _ in window.chunks]
    first_rows = np.cumsum([0, *(len(window.chunks) for window in windows)]).tolist()
    golds = [row + gold for row, window in zip(first_rows, windows, strict=False) for gold in window.golds]
    askers = [window.document for window in windows for _ in window.questions]
    answerers = [window.document for window in windows for _ in window.chunks]
    held, targets = target.embed(windows)
    return BatchVectors(
        queries=embed_isolated(target.base, questions),
        chunks=torch.nn.functional.normalize(_pool(student, windows), dim=1),
        golds=torch.tensor(golds),
        targets=targets,
        held=torch.tensor(held),
        windows=torch.tensor(owners),
        is_rival=torch.tensor([[asker.is_rival_of(answerer) for answerer in answerers] for asker in askers]),
    )


def _pool(encoder: Encoder, windows: Sequence[TrainingWindow]) -> Float[Tensor, "chunks dim"]:
    """Mean states of all chunks of all windows."""
    states = encoder.forward([window.ids for window in windows])
    means = [
        state[span.start : span.end].mean(dim=0)
        for window, state in zip(windows, states, strict=True)
        for span in window.token_spans
    ]
    return torch.stack(means).cpu()
