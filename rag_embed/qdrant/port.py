"""What the store asks of an engine: the port that every engine implements.

Filters and settings cross the port in the vocabulary of `qdrant_client.models`; points cross it as
`StoredPoint`, so that neither the store nor its tests see whether a vector is named on the wire.

Every operation is a coroutine. An engine that blocks simply never suspends, and `run_blocking` drives such
coroutines without an event loop: each algorithm of the store is written once and serves both its sync and its
async method.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar, cast

from qdrant_client import models

PointId: TypeAlias = int | str
Payload: TypeAlias = dict[str, object]
Vectors: TypeAlias = Mapping[str, object]
"""Vectors by name, of any kind (dense, sparse, multivector), in the engine's types or those of `models`."""

QueryVector: TypeAlias = list[float] | list[list[float]] | models.SparseVector
"""What a query is compared by: a dense vector, a vector per token, or words."""

T = TypeVar("T")

PAGE = 1_000
"""Points fetched, or ids sent, at once."""


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One point, on its way in or out.

    Attributes:
        id: A canonical UUID, or the integer of a point that something else wrote.
        payload: What is kept beside the vector; empty if it was not asked for.
        vector: The dense vector; None if it was not asked for, or if the point has none.
        score: The engine's score of a search result; None otherwise.
        others: More vectors of the point, by name; those that were asked for, or that are to be written.
        stages: Scores of a search's stages, by the metadata key that says what they are.
    """

    id: PointId
    payload: Payload
    vector: list[float] | None = None
    score: float | None = None
    others: Vectors = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VectorPrefix:
    """A second vector of every point: the first components of its vector, to find candidates by.

    Under Cosine the engine normalises it by itself, as any vector.

    Attributes:
        name: What it is called.
        dim: How many components it has.
    """

    name: str
    dim: int


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What an existing collection says of itself.

    Attributes:
        vectors: Dense vectors by name; the unnamed one is called "".
        metadata: Free values kept with the collection.
        indexed: Payload keys that have an index, and which.
        sparse: Sparse vectors by name.
        hnsw: The graph; None where the engine does not say.
        on_disk_payload: Whether payloads stay on disk; None where the engine does not say.
    """

    vectors: Mapping[str, models.VectorParams]
    metadata: Mapping[str, object]
    indexed: Mapping[str, models.PayloadFieldSchema]
    sparse: Mapping[str, models.SparseVectorParams] = field(default_factory=dict)
    hnsw: models.HnswConfigDiff | None = None
    on_disk_payload: bool | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """One vector query.

    Attributes:
        vector: The query's dense vector, its words, or a vector for each of its tokens.
        vector_name: Which of the collection's vectors to compare with.
        limit: How many points to return.
        condition: Only points that satisfy it are candidates.
        with_vector: Whether the results carry their vectors.
        with_payload: Whether the results carry their payloads.
        diversity: None for plain nearest neighbours; else maximal marginal relevance, 0 as relevant, 1 as
            varied as can be.
        candidates: Neighbours that marginal relevance chooses from.
        prefix: Find candidates by this vector, then order them by the one called `vector_name`.
        oversampling: Candidates per result, where a prefix or quantized vectors find them. None for a plain
            search, in which quantized vectors have the last word.
        params: The caller's own parameters of the search, which have precedence.
    """

    vector: QueryVector
    vector_name: str
    limit: int
    condition: models.Filter | None = None
    with_vector: bool = False
    with_payload: bool = True
    diversity: float | None = None
    candidates: int = 0
    prefix: VectorPrefix | None = None
    oversampling: float | None = None
    params: models.SearchParams | None = None

    @property
    def prefix_vector(self) -> list[float]:
        """The first components of a dense query vector, which are compared with the prefix."""
        assert self.prefix is not None
        assert isinstance(self.vector, list)
        return cast("list[float]", self.vector[: self.prefix.dim])

    @property
    def prefix_limit(self) -> int:
        """How many points to find by the prefix."""
        return math.ceil((self.oversampling or 1.0) * max(self.limit, self.candidates))

    @property
    def prefix_params(self) -> models.SearchParams:
        """Parameters of the search by the prefix, whose candidates need no rescoring."""
        params = self.params or models.SearchParams()
        unrescored = models.QuantizationSearchParams(rescore=False)
        return params.model_copy(update={"quantization": params.quantization or unrescored})

    @property
    def search_params(self) -> models.SearchParams | None:
        """Parameters of the search: quantized vectors find candidates, whole ones order them."""
        if self.oversampling is None or self.prefix is not None:
            return self.params
        rescoring = models.QuantizationSearchParams(rescore=True, oversampling=self.oversampling)
        if self.params is None:
            return models.SearchParams(quantization=rescoring)
        return self.params.model_copy(update={"quantization": self.params.quantization or rescoring})


@dataclass(frozen=True, slots=True)
class Candidates:
    """What several searches found together.

    Attributes:
        points: Best first by the first search, with payloads, and with vectors if it asks for them.
        scores: For each search those of the points; 0 for what it cannot score: no word in common, no tokens.
    """

    points: list[StoredPoint]
    scores: list[list[float]]


class Engine(Protocol):
    """One collection of a vector database.

    Every failure is a `StoreError`.
    """

    @property
    def where(self) -> str:
        """Name the engine in messages, such as 'server http://127.0.0.1:6333'."""

    async def describe(self) -> CollectionInfo | None:
        """Describe the collection; None if it does not exist."""

    async def create(self, request: models.CreateCollection) -> None:
        """Create the collection.

        Raises:
            StoreError: It exists already, or the engine refuses the settings.
        """

    async def set_metadata(self, metadata: Mapping[str, object]) -> None:
        """Merge values into the collection's metadata."""

    async def create_index(self, key: str, schema: models.PayloadFieldSchema) -> None:
        """Index a payload key."""

    async def drop(self) -> None:
        """Delete the collection, if it exists."""

    async def upsert(
        self,
        points: Sequence[StoredPoint],
        vector_name: str,
        prefix: VectorPrefix | None,
        condition: models.Filter | None = None,
    ) -> None:
        """Insert points, or overwrite those that are there.

        Args:
            points: With all their vectors: what is not written again is gone.
            vector_name: What their dense vector is called.
            prefix: Written beside the vector if the collection has one.
            condition: Overwrite only points that satisfy it; others stay as they are.
        """

    async def delete(self, condition: models.Filter) -> None:
        """Delete the points that satisfy a condition."""

    async def flush(self) -> None:
        """End a write: bring it to disk, where the engine does not do so by itself."""

    async def retrieve(
        self,
        ids: Sequence[PointId],
        vector_name: str,
        others: Sequence[str] = (),
        *,
        with_payload: bool = False,
    ) -> list[StoredPoint]:
        """Fetch the vectors of those of the points that exist, in any order; payloads on request."""

    async def scroll(
        self,
        condition: models.Filter | None,
        vector_name: str | None,
        limit: int,
        offset: PointId | None,
        keys: Sequence[str] | None = None,
        *,
        others: Sequence[str] = (),
    ) -> tuple[list[StoredPoint], PointId | None]:
        """Fetch one page of points ordered by id.

        Args:
            condition: Which; None for all.
            vector_name: The vector they carry; None for none.
            limit: Points of a page.
            offset: Where the page starts.
            keys: The payload keys they carry; None for all.
            others: Vectors that they carry beside `vector_name`.

        Returns:
            The page, and where the next one starts, if there is one.
        """

    async def search(self, search: Search) -> list[StoredPoint]:
        """Find the best points, best first."""

    async def search_legs(self, searches: Sequence[Search]) -> Candidates:
        """Find candidates by several searches, and score each candidate by all of them, in one request.

        Args:
            searches: Each finds `limit` candidates, unless that is 0, and scores those of all. They share
                their condition.

        Returns:
            Those that the first search can score, with what every search thinks of them.
        """

    async def count(self, condition: models.Filter | None) -> int:
        """Count the points that satisfy a condition, exactly."""


def run_blocking(flow: Coroutine[object, None, T]) -> T:
    """Run a coroutine whose engine blocks, to its end, on the calling thread."""
    try:
        flow.send(None)
    except StopIteration as finished:
        return cast(T, finished.value)
    flow.close()
    raise RuntimeError("the flow waits for an event loop; it was given an engine that does not block")
