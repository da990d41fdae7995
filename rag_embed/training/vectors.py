"""The vectors of one training step: questions and targets frozen, windows with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from rag_embed.encoder import Encoder
from rag_embed.late_chunking import embed_isolated
from rag_embed.pooling import blend
from rag_embed.training.documents import TrainingWindow
from rag_embed.training.losses import BatchTokens, BatchVectors


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
            late = torch.stack([states.mean(dim=0) for states in _read(self.teacher, windows)])
        texts = [window.text(position) for window in windows for position in range(len(window.chunks))]
        return list(range(len(texts))), blend(late, embed_isolated(self.base, texts), self.alpha)


def embed_windows(
    target: Target, student: Encoder, windows: Sequence[TrainingWindow], *, with_tokens: bool = False
) -> BatchVectors:
    """Embed one step: questions and targets frozen, windows with gradients.

    Args:
        target: What the vectors are held near.
        student: In training.
        windows: Of the step.
        with_tokens: Whether the states of single tokens are kept too.
    """
    prefix = target.base.profile.query_prefix
    questions = [prefix + question for window in windows for question in window.questions]
    owners = [number for number, window in enumerate(windows) for _ in window.chunks]
    first_rows = np.cumsum([0, *(len(window.chunks) for window in windows)]).tolist()
    golds = [row + gold for row, window in zip(first_rows, windows, strict=False) for gold in window.golds]
    askers = [window.document for window in windows for _ in window.questions]
    answerers = [window.document for window in windows for _ in window.chunks]
    held, targets = target.embed(windows)
    states_of_chunks = _read(student, windows)
    means = torch.stack([states.mean(dim=0) for states in states_of_chunks])
    return BatchVectors(
        queries=embed_isolated(target.base, questions),
        chunks=normalize(means, dim=1),
        golds=torch.tensor(golds),
        targets=targets,
        held=torch.tensor(held),
        windows=torch.tensor(owners),
        is_rival=torch.tensor([[asker.is_rival_of(answerer) for answerer in answerers] for asker in askers]),
        tokens=_make_tokens(target.base, questions, states_of_chunks) if with_tokens else None,
    )


def _make_tokens(
    base: Encoder, questions: Sequence[str], states_of_chunks: Sequence[Float[Tensor, "_ dim"]]
) -> BatchTokens:
    ids = [tokens.ids[: base.capacity] for tokens in base.tokenize_all(questions)]
    first = len(base.prefix_ids)
    # A clone, because what is made in inference mode takes no part in a backward pass.
    states_of_queries = [
        states[first : first + len(own)].clone() for states, own in zip(base.encode(ids), ids, strict=True)
    ]
    return BatchTokens(
        queries=normalize(torch.cat(states_of_queries).cpu(), dim=1),
        query_sizes=[len(states) for states in states_of_queries],
        chunks=normalize(torch.cat(list(states_of_chunks)), dim=1),
        chunk_sizes=[len(states) for states in states_of_chunks],
    )


def _read(encoder: Encoder, windows: Sequence[TrainingWindow]) -> list[Float[Tensor, "_ dim"]]:
    """States of the tokens of each chunk of all windows."""
    states = encoder.forward([window.ids for window in windows])
    return [
        state[span.start : span.end].cpu()
        for window, state in zip(windows, states, strict=True)
        for span in window.token_spans
    ]
