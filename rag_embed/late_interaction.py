"""Contextual late interaction: token vectors of chunks that were read inside their document.

The pass over a document's windows that pools chunk vectors (`late_chunking.py`) has the state of every token
in its hands; here they are kept, in a form that fits beside the vector, so that a query's tokens can be
compared with them (`max_sim.py`). No forward pass more at indexing, and one short one for the query. Differs
from Khattab & Zaharia 2020, arXiv:2004.12832, in: the tokens know their document, and with an encoder that
was trained for one vector per text no [MASK] expands the query.

A model that was trained to compare tokens has rules of its own for which (`scored_tokens.py`). Its queries,
and chunks that are read alone, keep the token vectors that it was trained with, special tokens, prefix and
all; a chunk of a document keeps those of its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rag_embed.errors import EmptyTextError, InputError
from rag_embed.guards import check_late_interaction
from rag_embed.max_sim import KeptTokens, TokenForm, to_units
from rag_embed.passes import JoinedReading, Reading, TextReading, TokenEncoder, WindowReading
from rag_embed.scored_tokens import ScoredTokens
from rag_embed.spans import TokenSpan

TokenVectors = Float[np.ndarray, "vectors dim"]
"""Unit vectors of a query's or a chunk's tokens."""


class SpanTokens:
    """Token vectors of the chunks of one document, fed window by window.

    States are held until their chunk is complete, and kept in the form from then on: beside the result, the
    memory is that of the chunks that are open, whatever the document's length.

    Args:
        token_spans: One half-open range per chunk, counted from the document's first token; may overlap.
        form: What is kept.
        is_scored: Whether each token of the document is compared; None if all are. Those that are not are
            left out, but for a chunk that has no others.

    Attributes:
        form: As given.
    """

    def __init__(
        self,
        token_spans: Sequence[TokenSpan],
        form: TokenForm,
        is_scored: Bool[np.ndarray, " tokens"] | None = None,
    ) -> None:
        self._spans = token_spans
        self.form = form
        self._is_scored = is_scored
        self._open: dict[int, list[Float[Tensor, "_ dim"]]] = {}
        self._done: dict[int, Tensor] = {}
        self._pending = sorted(range(len(token_spans)), key=lambda i: token_spans[i].start, reverse=True)

    def add(self, token_states: Float[Tensor, "tokens dim"], start: int) -> None:
        """Take in the states of consecutive tokens, the first of which is the document's token `start`.

        Blocks come in reading order; a chunk that a gap between them cuts is missing in the end.
        """
        end = start + len(token_states)
        while self._pending and self._spans[self._pending[-1]].start < end:
            self._open[self._pending.pop()] = []
        for index in list(self._open):
            span = self._spans[index]
            own = token_states[max(span.start - start, 0) : span.end - start]
            self._open[index].append(own.to(torch.float32, copy=True))
            if span.end <= end:
                states_of_chunk = torch.cat(self._open.pop(index))
                if len(states_of_chunk) == len(span):
                    self._done[index] = self.form.keep(self._select(states_of_chunk, span))

    def _select(self, states: Float[Tensor, "tokens dim"], span: TokenSpan) -> Float[Tensor, "_ dim"]:
        if self._is_scored is None:
            return states
        scored = np.flatnonzero(self._is_scored[span.start : span.end])
        return states[torch.from_numpy(scored).to(states.device)] if len(scored) else states

    def restore(self, index: int, kept: KeptTokens) -> None:
        """Take what was kept of a chunk in an earlier run, instead of its states."""
        self._pending.remove(index)
        self._done[index] = torch.from_numpy(kept)

    def kept(self) -> list[KeptTokens]:
        """What is kept of each chunk, in the given order.

        Raises:
            InputError: States of some chunk were never added.
        """
        if len(self._done) < len(self._spans):
            raise InputError(
                f"states of {len(self._spans) - len(self._done)} of {len(self._spans)} chunks are missing; "
                "add every window of the document before taking the vectors"
            )
        done = [self._done[index] for index in range(len(self._spans))]
        moved = torch.cat(done).cpu().split([len(each) for each in done]) if done else []
        return [each.numpy() for each in moved]


def make_span_tokens(
    encoder: TokenEncoder, token_ids: Int[np.ndarray, " tokens"], spans: Sequence[TokenSpan], form: TokenForm
) -> SpanTokens:
    """Make ready to keep the token vectors of the chunks of a document."""
    rules = encoder.scored_tokens
    return SpanTokens(spans, form, None if rules is None else rules.find(token_ids, "document"))


def keep_tokens_alone(
    encoder: TokenEncoder, reading: JoinedReading, form: TokenForm
) -> tuple[JoinedReading, list[SpanTokens]]:
    """Let texts that are read alone keep their token vectors, special tokens and prefix included.

    A text that takes several windows keeps those of its own tokens and of the prefix.

    Returns:
        The reading to use instead, and what is kept of each text.
    """
    parts: list[Reading] = []
    kept: list[SpanTokens] = []
    for part in reading.parts:
        if isinstance(part, TextReading):
            ids = np.concatenate([encoder.prefix_ids, part.token_ids, encoder.suffix_ids]).astype(np.int64)
            kept.append(make_span_tokens(encoder, ids, [TokenSpan(0, len(ids))], form))
        else:
            assert isinstance(part, WindowReading)
            kept.append(make_span_tokens(encoder, part.token_ids, part.token_spans, form))
        parts.append(replace(part, readers=[kept[-1]]))
    return replace(reading, parts=parts), kept


def embed_query_tokens(encoder: TokenEncoder, query: str, *, prefix: str = "") -> TokenVectors:
    """Make the token vectors of a query: of its own tokens, or as a model was trained to compare them.

    Raises:
        UnsupportedModelError: The model's token states mean nothing by themselves.
        EmptyTextError: The query has no token.
    """
    check_late_interaction(encoder.profile, encoder.insist)
    tokens = encoder.tokenize(prefix + query)
    own = int(np.searchsorted(tokens.starts, len(prefix)))
    if own == len(tokens):
        raise EmptyTextError(f"the query {query[:40]!r} holds no token; ask something")
    if encoder.scored_tokens is not None:
        return _embed_expanded(encoder, encoder.scored_tokens, tokens.ids)
    (states,) = encoder.encode([tokens.ids])
    first = len(encoder.prefix_ids) + own
    return to_units(states[first : len(encoder.prefix_ids) + len(tokens)].float().cpu().numpy())


def _embed_expanded(
    encoder: TokenEncoder, rules: ScoredTokens, token_ids: Int[np.ndarray, " tokens"]
) -> TokenVectors:
    """All tokens of a query that are compared: special ones, the prefix, and what fills it up."""
    whole = np.concatenate([encoder.prefix_ids, token_ids, encoder.suffix_ids]).astype(np.int64)
    ids, unseen_tokens = rules.expand(whole)
    (states,) = encoder.encode([ids], adds_special_tokens=False, unseen_tokens=unseen_tokens)
    vectors = to_units(states.float().cpu().numpy())
    is_scored = rules.find(ids, "query")
    return vectors[is_scored] if is_scored.any() else vectors
