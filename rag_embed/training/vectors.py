"""The vectors of one training step: questions and targets frozen, windows with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from rag_embed.encoder import Encoder
from rag_embed.late_chunking import embed_isolated
from rag_embed.pooling import blend, normalise
from rag_embed.shared_layers import SharedLayers
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
        sizes = [len(window.chunks) for window in windows]
        isolated = embed_isolated(self.base, texts)
        halves = zip(windows, late.split(sizes), isolated.split(sizes), strict=True)
        mixed = [blend(a, b, self.alpha, spans=window.char_spans) for window, a, b in halves]
        return list(range(len(texts))), torch.cat(mixed)


def embed_windows(
    target: Target,
    student: Encoder | SharedLayers,
    windows: Sequence[TrainingWindow],
    *,
    with_tokens: bool = False,
) -> BatchVectors:
    """Embed one step: questions and targets frozen, windows with gradients.

    Args:
        target: What the vectors are held near. A student that shares layers is held near its own other half,
            and what is compared with questions is the blend of both, as it is used.
        student: In training.
        windows: Of the step; those of one document follow one another.
        with_tokens: Whether the states of single tokens are kept too.
    """
    prefix = target.base.profile.query_prefix
    questions = [prefix + question for window in windows for question in window.questions]
    doc_ids = [window.document.doc_id for window in windows for _ in window.chunks]
    numbers = {doc_id: number for number, doc_id in enumerate(dict.fromkeys(doc_ids))}
    owners = torch.tensor([numbers[doc_id] for doc_id in doc_ids])
    first_rows = np.cumsum([0, *(len(window.chunks) for window in windows)]).tolist()
    golds = [row + gold for row, window in zip(first_rows, windows, strict=False) for gold in window.golds]
    askers = [window.document for window in windows for _ in window.questions]
    answerers = [window.document for window in windows for _ in window.chunks]
    in_context: Float[Tensor, "chunks dim"] | None = None
    if isinstance(student, SharedLayers):
        alone, states_of_chunks = _read_both(student, windows)
        in_context = normalize(torch.stack([states.mean(dim=0) for states in states_of_chunks]), dim=1)
        sizes = owners.bincount().tolist()
        halves = zip(in_context.split(sizes), alone.split(sizes), strict=True)
        chunks = torch.cat([_mix(*each) for each in halves])
        held, targets = list(range(len(alone))), normalize(alone, dim=1)
    else:
        held, targets = target.embed(windows)
        states_of_chunks = _read(student, windows)
        chunks = normalize(torch.stack([states.mean(dim=0) for states in states_of_chunks]), dim=1)
    return BatchVectors(
        queries=embed_isolated(target.base, questions),
        chunks=chunks,
        in_context=in_context,
        golds=torch.tensor(golds),
        targets=targets,
        held=torch.tensor(held),
        documents=owners,
        is_rival=torch.tensor([[asker.is_rival_of(answerer) for answerer in answerers] for asker in askers]),
        tokens=_make_tokens(target.base, questions, states_of_chunks) if with_tokens else None,
    )


def _mix(
    in_context: Float[Tensor, "chunks dim"], alone: Float[Tensor, "chunks dim"]
) -> Float[Tensor, "chunks dim"]:
    """Mix the halves of one document half and half, the half alone moved by up to twice the shift.

    It is not `pooling.blend`, in which they are used: what is trained on that one is as good on the mean and
    answers encyclopaedia questions worse (docs/decisions/one-pass.md).
    """
    in_context, alone = normalise(in_context), normalise(alone)
    moved = alone + (2 - 1 / len(alone)) * (in_context - alone).mean(dim=0)
    return normalise(in_context + moved)


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


def _read_both(
    layers: SharedLayers, windows: Sequence[TrainingWindow]
) -> tuple[Float[Tensor, "chunks dim"], list[Float[Tensor, "_ dim"]]]:
    """Means of the chunks alone, and the states of their tokens in context, of all windows."""
    encoder = layers.encoder
    before, behind = len(encoder.prefix_ids), len(encoder.suffix_ids)

    def surround(ids: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        return np.concatenate([encoder.prefix_ids, ids, encoder.suffix_ids]).astype(np.int64)

    texts = []
    for window in windows:
        head = [surround(window.head_ids)] if len(window.head_ids) else []
        texts.append([*head, *(surround(window.ids[span.start : span.end]) for span in window.token_spans)])
    alone, in_context = [], []
    for window, readings in zip(windows, layers.forward(texts), strict=True):
        for reading in readings[-len(window.chunks) :]:
            alone.append(reading.alone.mean(dim=0).cpu())
            in_context.append(reading.in_context[before : len(reading.in_context) - behind].cpu())
    return torch.stack(alone), in_context
