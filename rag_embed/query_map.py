"""Queries of a new encoder brought into the space of an old one, whose vectors can so go on being searched.

A map is learned from the same chunks embedded by both encoders; no query and no relevance is needed.

- Shift. Goswami, Wang, Twardowski & van de Weijer 2025, "Query Drift Compensation: Enabling Compatibility in
  Continual Learning of Retrieval Embedding Models", CoLLAs, arXiv:2506.00037 (the method; `encode_queries` in
  the authors' eval/eval_retrieval.py): the mean drift is subtracted from each query. Differs in: the drift is
  measured on chunks, of which an index has plenty, and in one step from any encoder to any other, where
  theirs is summed over the steps of one encoder's training.
- Rotation. Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31;
  for encoder upgrades Vejendla 2025, "Drift-Adapter: A Practical Approach to Near Zero-Downtime Embedding
  Model Upgrades in Vector Databases", EMNLP, arXiv:2509.23471 (the adapter called Orthogonal Procrustes).
  Differs in: both sides are centred first, and sizes may differ. The paper's low-rank and MLP adapters, which
  are trained, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from rag_embed.errors import DimensionMismatchError, InputError, NonFiniteError

MapKind: TypeAlias = Literal["shift", "procrustes"]

FEWEST_PAIRS = 2
"""One pair has no spread around its mean, and a rotation learned from it would be arbitrary."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryMap:
    """An affine map: `(query - new_mean) @ rotation + old_mean`.

    Attributes:
        new_mean: Mean of the sample in the new space.
        old_mean: Mean of the same chunks in the old space.
        rotation: Orthonormal columns, or rows if the old space is the larger one; None leaves directions as
            they are.
        pairs: How many chunks it was learned from.
    """

    new_mean: Float64[np.ndarray, " new_dim"]
    old_mean: Float64[np.ndarray, " old_dim"]
    rotation: Float64[np.ndarray, "new_dim old_dim"] | None
    pairs: int

    def apply(self, queries: Float[np.ndarray, "*n new_dim"]) -> Float64[np.ndarray, "*n old_dim"]:
        """Bring queries of the new encoder into the old space.

        Returns:
            In the given order, not normalised: cosines do not ask, and a collection by dot product is
            searched in the same order.

        Raises:
            DimensionMismatchError: Queries of another size than those of the new encoder.
        """
        if queries.shape[-1] != len(self.new_mean):
            raise DimensionMismatchError(
                f"the queries have {queries.shape[-1]} dimensions; this map takes {len(self.new_mean)}. "
                "Embed them with the encoder that the map was learned for"
            )
        centred = np.asarray(queries, dtype=np.float64) - self.new_mean
        return np.asarray((centred if self.rotation is None else centred @ self.rotation) + self.old_mean)

    @property
    def is_determined(self) -> bool:
        """Whether the pairs span the smaller space; directions outside of them are mapped arbitrarily."""
        return self.rotation is None or self.pairs > min(self.rotation.shape)


def learn_map(
    kind: MapKind, new: Float[np.ndarray, "pairs new_dim"], old: Float[np.ndarray, "rows old_dim"]
) -> QueryMap:
    """Learn a map from chunks that both encoders have embedded.

    "shift" takes each query by the difference of the means, and turns nothing: for encoders of which one was
    trained on from the other. "procrustes" finds, between the centred samples, the rotation (or reflection)
    that aligns them best: the `R` of orthonormal columns or rows with the largest `trace(Rᵀ newᵀ old)`, which
    the singular vectors of `newᵀ old` give.

    Between spaces of different sizes `R` is what the square problem gives after the shorter vectors are
    filled up with zeros. Into a larger space that is the least-squares solution among orthonormal rows; into
    a smaller one `R` also drops directions, lengths shrink, and no closed form of the least squares is known.

    Args:
        kind: Which map.
        new: Vectors by the new encoder.
        old: Those of the same chunks, in the same order, by the old one.

    Raises:
        InputError: Not as many vectors on one side as on the other, or fewer than 2.
        DimensionMismatchError: A shift between spaces of different sizes.
        NonFiniteError: NaN or infinity.
    """
    if len(new) != len(old) or len(new) < FEWEST_PAIRS:
        raise InputError(
            f"there are {len(new)} vectors of the new encoder and {len(old)} of the old one; expected as "
            f"many, at least {FEWEST_PAIRS}. Embed more of the same chunks with both"
        )
    if kind == "shift" and new.shape[1] != old.shape[1]:
        raise DimensionMismatchError(
            f"the new encoder makes {new.shape[1]} dimensions and the old vectors have {old.shape[1]}; a "
            "shift is between spaces of one size. Use 'procrustes'"
        )
    if not (np.isfinite(new).all() and np.isfinite(old).all()):
        raise NonFiniteError("the sample holds NaN or infinity; expected numbers. Embed its chunks again")
    new, old = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    new_mean, old_mean = new.mean(axis=0), old.mean(axis=0)
    rotation = None
    if kind == "procrustes":
        left, _, right = np.linalg.svd((new - new_mean).T @ (old - old_mean), full_matrices=False)
        rotation = left @ right
    return QueryMap(new_mean, old_mean, rotation, len(new))
