"""From token states to vectors; the only module that averages and normalises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from rag_embed.errors import EmptySpanError, InputError, NonFiniteError
from rag_embed.modes import Pooling
from rag_embed.spans import CharSpan, TokenSpan, find_neighbours

_SHORTEST = 1e-3


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
    spans: Sequence[CharSpan],
) -> Float[Tensor, "chunks dim"]:
    """Mix the two readings of one document's chunks: isolated + shift + alpha · rest.

    What context says of all chunks of the document is the shift, the mean difference of late and isolated. It
    tells documents apart and leaves the chunks of one document as they stand to each other, so it counts
    whole. The rest, what context says of the single chunk, counts with `alpha`, but for what the chunks right
    before and behind say alone and the chunk itself does not: attention smears a text over its neighbours,
    which then answer its questions. What was measured is in docs/decisions/one-pass.md.

    Args:
        late: Of all chunks of a document, in context; of any length.
        isolated: The same chunks alone.
        alpha: Share of what context says of the single chunk, from 0 to 1.
        spans: Where the chunks stand; tells who are neighbours (`spans.find_neighbours`).

    Returns:
        Unit vectors; of a document's only chunk, its late vector.
    """
    late, isolated = normalise(late), normalise(isolated)
    shift = (late - isolated).mean(dim=0)
    rest = _leave_neighbours(late - isolated - shift, isolated, find_neighbours(spans))
    return normalise(isolated + shift + alpha * rest)


def _leave_neighbours(
    said: Float[Tensor, "chunks dim"],
    isolated: Float[Tensor, "chunks dim"],
    neighbours: tuple[Sequence[int], Sequence[int]],
) -> Float[Tensor, "chunks dim"]:
    """Take out of what is said of each chunk what its two neighbours say and it does not.

    Vectors are counted from the document's mean, or what all its chunks share would be taken out too.
    """
    own = isolated - isolated.mean(dim=0)
    with_none = pad(own, (0, 0, 0, 1))  # the place -1, for no neighbour, is the last row
    known = [_directions(own)]
    for places in neighbours:
        beside = with_none[list(places)]
        for direction in known:
            beside = beside - (beside * direction).sum(dim=1, keepdim=True) * direction
        known.append(_directions(beside))
    for direction in known[1:]:
        said = said - (said * direction).sum(dim=1, keepdim=True) * direction
    return said


def _directions(vectors: Float[Tensor, "chunks dim"]) -> Float[Tensor, "chunks dim"]:
    """Scale to length 1; what is so short that rounding gives its direction becomes 0."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / lengths.clamp(min=_SHORTEST) * (lengths >= _SHORTEST)
