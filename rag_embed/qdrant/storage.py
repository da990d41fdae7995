"""How a collection keeps its vectors: whole, for the last word, and smaller, for the search.

Qdrant's scheme (quantization with rescoring, multi-stage queries): candidates are found by a form that is
small enough for memory, `oversampling` times as many as are wanted, and ordered by the whole vectors, which
wait on disk.

    float32, float16    whole vectors ─────────────────────────► results
    int8, binary        quantized vectors ──► candidates ─► whole vectors ─► results
    prefix_dim=         first components, in any of these four ──► candidates ─► whole vectors ─► results

Whole vectors are float16 beside quantized ones: its rounding (2^-11 of a component) is far below what a
ranking shows; signed int8 values of a model can be told from the unit vectors that come back, and binary ones
(-1 and 1) keep their directions exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from qdrant_client import models

from rag_embed.errors import InputError
from rag_embed.qdrant.port import VectorPrefix

Encoding: TypeAlias = Literal["float32", "float16", "int8", "binary"]

PREFIX_SUFFIX = "-prefix"
"""Of the name of the vector that holds another one's first components."""

# `always_ram` and `on_disk`, because older servers do not know `memory`, which means the same.
_QUANTIZATION: Mapping[str, models.QuantizationConfig] = {
    "int8": models.ScalarQuantization(
        # A rare outlier would otherwise widen the steps of all the others.
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    ),
    "binary": models.BinaryQuantization(
        # A query of 8 bits against stored vectors of one finds far more than bits against bits, at no memory.
        binary=models.BinaryQuantizationConfig(
            always_ram=True, query_encoding=models.BinaryQuantizationQueryEncoding.SCALAR8BITS
        )
    ),
}
_OVERSAMPLING: Mapping[str, float | None] = {"float32": None, "float16": None, "uint8": None, "int8": 3.0}
_COARSE_OVERSAMPLING = 10.0
"""Of binary, of what only the collection's own settings know (product, turbo), and of prefixes; twice that of
binary prefixes. docs/qdrant.md says what was measured."""

_NO_GRAPH = models.HnswConfigDiff(m=0, payload_m=0)


class VectorStorage(BaseModel):
    """What is kept of a vector; `VectorStorage.model_validate("int8")` is short for `encoding="int8"`.

    Attributes:
        encoding: What the search reads: 4 bytes, 2 bytes, 1 byte or 1 bit per component. The whole vectors
            are float32 with "float32" and float16 otherwise.
        prefix_dim: Search by the first components only, as models with Matryoshka training allow; of any
            other model they are an arbitrary part. None searches by all.
        oversampling: Candidates per result. None is 3 for int8, 10 for binary and for prefixes, 20 for
            binary prefixes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: Encoding = "float32"
    prefix_dim: Annotated[int, Field(ge=1)] | None = None
    oversampling: Annotated[float, Field(ge=1.0, le=1_000.0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_encoding(cls, value: object) -> object:
        return {"encoding": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_oversampling(self) -> VectorStorage:
        if self.oversampling is not None and choose_oversampling(self.encoding, self.prefix_dim) is None:
            raise ValueError(
                f"oversampling is {self.oversampling} for {self.encoding} vectors without a prefix; expected "
                "None, because such a search reads the whole vectors at once. Leave it out"
            )
        return self

    def __str__(self) -> str:
        return describe_storage(self.encoding, self.prefix_dim)

    def to_vectors(self, vector_name: str, plain: models.VectorParams) -> dict[str, models.VectorParams]:
        """Build the vectors of a new collection.

        Args:
            vector_name: Of the whole vectors.
            plain: The whole vectors' size and distance, and whether they must be on disk.

        Raises:
            InputError: A prefix as long as the vector, or of a vector without a name.
        """
        quantization = _QUANTIZATION.get(self.encoding)
        datatype = None if self.encoding == "float32" else models.Datatype.FLOAT16
        is_smaller = self.prefix_dim is not None or quantization is not None
        waits_on_disk = True if is_smaller and plain.on_disk is None else plain.on_disk
        whole = plain.model_copy(update={"datatype": datatype, "on_disk": waits_on_disk})
        if self.prefix_dim is None:
            return {vector_name: whole.model_copy(update={"quantization_config": quantization})}
        if self.prefix_dim >= plain.size or not vector_name:
            raise InputError(
                f"prefix_dim is {self.prefix_dim} for vectors called {vector_name!r} of {plain.size} "
                "components; expected fewer, and a name. Pass a smaller prefix_dim, or vector_name="
            )
        prefix = models.VectorParams(
            size=self.prefix_dim,
            distance=plain.distance,
            datatype=datatype,
            quantization_config=quantization,
            on_disk=True if quantization else None,
        )
        # Only candidates are compared with the whole vectors: a graph of theirs would never be walked.
        unsearched = whole.model_copy(update={"hnsw_config": _NO_GRAPH})
        return {vector_name: unsearched, vector_name + PREFIX_SUFFIX: prefix}


def find_prefix(vectors: Mapping[str, models.VectorParams], vector_name: str) -> VectorPrefix | None:
    """Find the vector that holds the first components of another one."""
    name = vector_name + PREFIX_SUFFIX
    params = vectors.get(name) if vector_name else None
    if params is None or params.multivector_config or params.size >= vectors[vector_name].size:
        return None
    return VectorPrefix(name, params.size)


def read_encoding(params: models.VectorParams) -> str:
    """Name how a vector is searched: an `Encoding`, or what only the settings of others choose."""
    quantization = params.quantization_config
    if quantization is None:
        return params.datatype.value if params.datatype else "float32"
    # A model of one field, called as the kind is: scalar, product, binary or turbo.
    kind = next(iter(type(quantization).model_fields))
    return "int8" if kind == "scalar" else kind


def choose_oversampling(encoding: str, prefix_dim: int | None) -> float | None:
    """Choose how many candidates a result needs; None where the search is not in two steps."""
    if prefix_dim is not None:
        return 2 * _COARSE_OVERSAMPLING if encoding == "binary" else _COARSE_OVERSAMPLING
    return _OVERSAMPLING.get(encoding, _COARSE_OVERSAMPLING)


def describe_storage(encoding: str, prefix_dim: int | None) -> str:
    """Name a storage in messages, such as 'binary, prefix of 256'."""
    return encoding if prefix_dim is None else f"{encoding}, prefix of {prefix_dim}"
