"""From token states to vectors; the only module that averages and normalises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rag_embed.errors import EmptySpanError, InputError, NonFiniteError
from rag_embed.modes import Pooling
from rag_embed.spans import TokenSpan

REACH = 1.5
"""How many times the mean difference of its two readings a document's chunks are moved, where it has many."""


class SpanPool:
    """Running means of the chunks of one document, fed window by window.

    Only one sum per chunk is kept, where the states are, so the memory does not depend on the document's
    length and an accelerator never waits for them.

    Args:
        token_spans: One half-open range per chunk, counted from the document's first token; may overlap.
        dim: Size of a token state.

    Raises:
        EmptySpanError: A span holds no token; its mean would be NaN.
    """

    def __init__(self, token_spans: Sequence[TokenSpan], dim: int) -> None:
        self._starts = torch.tensor([span.start for span in token_spans], dtype=torch.long)
        self._ends = torch.tensor([span.end for span in token_spans], dtype=torch.long)
        if empty := (self._ends <= self._starts).nonzero().flatten().tolist():
            raise EmptySpanError(
                f"token spans {empty} are empty; expected at least one token in each", tuple(empty)
            )
        self._sums = torch.zeros(len(token_spans), dim)
        self._counts = torch.zeros(len(token_spans), dtype=torch.long)

    def add(self, token_states: Float[Tensor, "tokens dim"], start: int) -> None:
        """Take in the states of consecutive tokens, the first of which is the document's token `start`."""
        end = start + len(token_states)
        states = token_states.float()
        self._sums = self._sums.to(states.device)
        if states.device.type != "cpu":
            self._add_at_once(states, start)
            return
        for index in ((self._starts < end) & (self._ends > start)).nonzero().flatten().tolist():
            first = max(int(self._starts[index]), start)
            last = min(int(self._ends[index]), end)
            self._sums[index] += states[first - start : last - start].sum(dim=0)
            self._counts[index] += last - first

    def _add_at_once(self, states: Float[Tensor, "tokens dim"], start: int) -> None:
        """Add with one product, where starting a sum costs more than its terms; the last bits differ."""
        places = torch.arange(start, start + len(states))
        is_inside = (places >= self._starts[:, None]) & (places < self._ends[:, None])
        self._sums += is_inside.to(states.device, torch.float32, non_blocking=True) @ states
        self._counts += is_inside.sum(dim=1)

    def means(self) -> Float[Tensor, "chunks dim"]:
        """One vector per chunk in the given order, float32 where the states are, not normalised.

        Raises:
            InputError: States of some tokens were never added, or twice.
        """
        missing = self._ends - self._starts - self._counts
        if missing.any():
            raise InputError(
                f"states of {int(missing.clamp(min=0).sum())} tokens are missing and of "
                f"{int(-missing.clamp(max=0).sum())} were added twice; add every window of the document once "
                "before taking the means"
            )
        return self._sums / self._counts.to(self._sums.device)[:, None]


def pool_spans(
    token_states: Float[Tensor, "tokens dim"], token_spans: Sequence[TokenSpan]
) -> Float[Tensor, "chunks dim"]:
    """Average the token states of each chunk.

    Args:
        token_states: Last-layer states of one document in reading order, without special tokens.
        token_spans: One half-open range per chunk, counted from the document's first token.

    Returns:
        One vector per span in the given order, float32 where the states are, not normalised.

    Raises:
        EmptySpanError: A span holds no token; its mean would be NaN.
        InputError: A span reaches beyond the given states.

    Source: Günther et al. 2024, arXiv:2409.04701, algorithm 1. Differs in: straddling tokens are kept.
    """
    pool = SpanPool(token_spans, token_states.shape[1])
    pool.add(token_states, 0)
    return pool.means()


def pool_text(token_states: Float[Tensor, "tokens dim"], pooling: Pooling) -> Float[Tensor, " dim"]:
    """Make one vector of a text's states, special tokens included; float32, not normalised."""
    if pooling == "mean":
        return token_states.float().mean(dim=0)
    return token_states[0 if pooling == "cls" else -1].float()


def normalise(vectors: Float[Tensor, "chunks dim"]) -> Float[Tensor, "chunks dim"]:
    """Scale each vector to length 1.

    Raises:
        NonFiniteError: A vector holds NaN or infinity, or has no length.
    """
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if bad := (~lengths.isfinite() | (lengths == 0)).flatten().nonzero().flatten().tolist():
        raise NonFiniteError(
            f"vectors {bad[:10]} of {len(vectors)} are not finite or have no length; expected finite "
            "numbers. In float16 this is usually an overflow: load the model with dtype='float32'"
        )
    return vectors / lengths


def blend(
    late: Float[Tensor, "chunks dim"],
    isolated: Float[Tensor, "chunks dim"],
    alpha: float,
    *,
    reach: float = REACH,
) -> Float[Tensor, "chunks dim"]:
    """Mix the two readings of one document's chunks.

    The isolated vectors are moved together, along the mean difference of late and isolated: they stand to
    each other as they did, and to other documents as context says. Then `alpha` parts late and `1 - alpha`
    parts of these are added. The only chunk of a document is moved to its late vector, many chunks by `reach`
    times the difference: once and a half gains where documents have to be told apart and loses little
    elsewhere (docs/decisions/one-pass.md).

    Args:
        late: Of all chunks of a document, in context; of any length.
        isolated: The same chunks alone.
        alpha: Share of what context says of the single chunk, from 0 to 1; 1 gives the late vectors.
        reach: How far many chunks are moved; n chunks by this less (reach - 1) / n.

    Returns:
        Unit vectors.
    """
    late, isolated = normalise(late), normalise(isolated)
    shift = (late - isolated).mean(dim=0)
    moved = isolated + (reach - (reach - 1) / len(late)) * shift
    return normalise(alpha * late + (1 - alpha) * moved)
