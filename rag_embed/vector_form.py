"""The form in which a vector leaves the encoder: its size and its numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rag_embed.errors import InputError, NonFiniteError
from rag_embed.modes import Precision
from rag_embed.pooling import normalise


@dataclass(frozen=True, slots=True)
class VectorForm:
    """Size and numbers of a vector.

    Attributes:
        dim: How many leading dimensions are kept (Matryoshka); None keeps all.
        precision: "float" is a vector of length 1. "int8" are the whole numbers from -128 to 127 and "binary"
            the signs, +1 and -1, of models that were trained for them: not of length 1, compared by cosine.
    """

    dim: int | None = None
    precision: Precision = "float"


UNIT_FORM = VectorForm()
"""All dimensions, length 1."""


def form_vectors(means: Float[Tensor, "chunks dim"], form: VectorForm) -> Float[Tensor, "chunks form_dim"]:
    """Bring averaged token states into a form.

    Args:
        means: Not normalised: an int8 code depends on the length.
        form: Which.

    Returns:
        float32 on the CPU; codes are whole numbers.

    Raises:
        InputError: There are fewer dimensions than are asked for.
        NonFiniteError: A vector holds NaN or infinity, or all its numbers or codes are zero, so that it has
            no direction.

    Source: Perplexity 2026, arXiv:2602.11151, pplx-embed's quantisers: clamp(round(127 * tanh(mean)), -128,
    127) and sign with 0 counted as positive. Differs in: a vector without a direction is an error.
    """
    if form.dim is not None and not 0 < form.dim <= means.shape[1]:
        raise InputError(
            f"dim is {form.dim}; expected at least 1 and at most the {means.shape[1]} dimensions that the "
            "model makes"
        )
    kept = means[:, : form.dim]
    units = normalise(kept)  # also the check that all numbers are finite
    if form.precision == "float":
        return units
    if form.precision == "binary":
        return torch.where(kept >= 0, 1.0, -1.0)
    codes = (127 * kept.tanh()).round().clamp(-128, 127)
    if empty := (codes == 0).all(dim=1).nonzero().flatten().tolist():
        raise NonFiniteError(
            f"vectors {empty[:10]} of {len(codes)} are all zero as int8; expected numbers of about 1, as a "
            "model trained for int8 makes them. Use precision='float'"
        )
    return codes
