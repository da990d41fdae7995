"""The precisions that this processor computes, and how near each comes to float32 computed elsewhere."""

from __future__ import annotations

import pytest

from rag_embed.devices import has_fast_bfloat16

TOLERANCE = {"float32": 5e-6, "bfloat16": 5e-2}
"""Largest difference of a state, as a share of the largest state of its text. Float32 is rounded once per
operation and in another order on every processor; bfloat16 keeps 8 bits, which is 4e-3 per operation."""

PRECISIONS = [
    "float32",
    pytest.param(
        "bfloat16",
        marks=pytest.mark.skipif(not has_fast_bfloat16(), reason="this processor has no bfloat16"),
    ),
]
