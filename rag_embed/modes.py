"""Modes that several rings speak of: how states become one vector, and what its numbers are."""

from typing import Literal

Pooling = Literal["mean", "cls", "last-token"]
"""Which token states make the vector of one text: their mean, the first, or the last."""

Precision = Literal["float", "int8", "binary"]
"""Numbers of a vector: of length 1, whole numbers from -128 to 127, or signs."""

ALPHA = 0.6
"""Share of what context says of the single chunk in a blend, unless another is asked for."""
