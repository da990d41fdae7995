"""Whether a server computes what the local encoder does: asked once, when it is connected to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.encoder import Encoder
from rag_embed.errors import EncoderAnswerError, InputError
from rag_embed.served.encoder import ServedEncoder

TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest distance of a served token state from the local one in float32, in lengths of the local one."""

_TEXTS = (
    "Berlin is the capital of Germany, and its more than 3.85 million people make it the largest city.",
    "a",
    "What does the founder of the café say about prices? 「東京」 ünïcödé, e-mail@example.org; 1,024 × 7!",
)
_LONG_TEXT = "The river has a bridge, and the city has many people who cross it on foot every day. "
_COMPARED_TOKENS = 512


def probe(served: ServedEncoder, local: Encoder) -> float:
    """Compare served token states with those of the same weights here.

    Short texts and one of up to 512 tokens are compared state by state; one as long as the model reads is
    compared in its number of states, which tells a server that cuts.

    Args:
        served: What answers.
        local: The same weights, in float32.

    Returns:
        The largest distance found, in lengths of the local state.

    Raises:
        EncoderAnswerError: The states are not the local ones; the message says why, where that shows.
        InputError: The server refuses texts as long as the model reads.
        EncoderUnavailableError: The server does not answer.
    """
    long_ids = _make_long(local)
    compared = [local.tokenize(text).ids for text in _TEXTS]
    compared = [ids[: local.capacity] for ids in compared]
    compared.append(long_ids[: min(len(long_ids), _COMPARED_TOKENS)])
    found = list(served.encode(compared))
    expected = [states.float().cpu() for states in local.encode(compared)]
    error = _compare(served, torch.cat(found), torch.cat(expected))
    try:
        next(served.encode([long_ids]))
    except InputError as refused:
        raise InputError(
            f"{served.connection.url} does not take the {served.max_tokens} tokens that "
            f"{served.profile.name} reads at once: {refused}. Start it with room for them "
            "(vLLM: --max-model-len; text-embeddings-inference: --max-batch-tokens)"
        ) from refused
    return error


def _make_long(local: Encoder) -> Int[np.ndarray, " tokens"]:
    """As many tokens as fit, of words that are whole: an engine that takes text reads the same ones."""
    once = len(local.tokenize(_LONG_TEXT))
    return (
        local.tokenize(_LONG_TEXT * (local.capacity // once)).ids
        if local.capacity >= once
        else (local.tokenize(_LONG_TEXT).ids[: local.capacity])
    )


def _compare(
    served: ServedEncoder, found: Float[Tensor, "tokens dim"], expected: Float[Tensor, "tokens dim"]
) -> float:
    sizes = expected.norm(dim=1, keepdim=True)
    tolerance = TOLERANCES[served.dtype]
    error = _distance(found, expected)
    if error <= tolerance:
        return error
    where = f"{served.connection.url} gives token states that are not those of {_describe(served)}"
    if _distance(found, expected / sizes) * float(sizes.min()) <= tolerance * float(sizes.max()):
        raise EncoderAnswerError(
            f"{where}: it normalises each token to length 1, which changes every mean; expected states as "
            f"the model makes them: {served.wire.remedy}"
        )
    coarser = [str(d).removeprefix("torch.") for d, limit in TOLERANCES.items() if tolerance < limit >= error]
    hint = f", or dtype={coarser[0]!r} here if that is what it computes in" if coarser else ""
    raise EncoderAnswerError(
        f"{where}: they differ by up to {error:.2g} of their length; expected at most {tolerance:g} in "
        f"{str(served.dtype).removeprefix('torch.')}. It serves another model, other weights (with or "
        f"without an adapter), or computes in another precision: {served.wire.remedy}{hint}"
    )


def _distance(found: Float[Tensor, "tokens dim"], expected: Float[Tensor, "tokens dim"]) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def _describe(served: ServedEncoder) -> str:
    adapter = f" with adapter {served.adapter.name}" if served.adapter else " without an adapter"
    return f"{served.profile.name}{adapter}"
