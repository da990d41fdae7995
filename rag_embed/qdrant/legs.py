"""What a collection keeps beside the dense vector: words (sparse) and token vectors (a multivector)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from llama_index.core.schema import BaseNode, MetadataMode
from qdrant_client import models

from rag_embed.errors import DimensionMismatchError, MissingVectorError, StoreError
from rag_embed.max_sim import to_units
from rag_embed.qdrant.lexical import LexicalForm
from rag_embed.qdrant.port import StoredPoint
from rag_embed.stamp import tokens_of

LEXICAL_NAME = "lexical"
"""What the sparse vector of a point's words is called."""
TOKENS_NAME = "tokens"
"""What the multivector of a point's token vectors is called."""

TokenStorage: TypeAlias = Literal["float16", "int8", "int4"]
"""How token vectors are kept: 2 bytes, 1 byte or half a byte per number."""
DEFAULT_TOKEN_STORAGE: TokenStorage = "int4"

# Qdrant's own encodings, which need no training; servers know them since 1.18.
_DATATYPES: Mapping[TokenStorage, models.Datatype] = {
    "float16": models.Datatype.FLOAT16,
    "int8": models.Datatype.TURBO8,
    "int4": models.Datatype.TURBO4,
}


@dataclass(frozen=True, slots=True)
class Legs:
    """What stands beside the dense vector.

    Attributes:
        lexical: How the words become a sparse vector; None if there is none.
        tokens: How token vectors are kept; None if there are none.
    """

    lexical: LexicalForm | None = None
    tokens: TokenStorage | None = None

    def __str__(self) -> str:
        named = [
            f"lexical={self.lexical}" if self.lexical else "",
            f"tokens={self.tokens!r}" if self.tokens else "",
        ]
        return " and ".join(filter(None, named)) or "neither words nor tokens"

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Legs:
        """Read what a collection's record says of them."""
        lexical = record.get("lexical")
        tokens: Any = record.get("tokens")
        return cls(LexicalForm.model_validate(lexical) if lexical is not None else None, tokens)

    def to_record(self) -> dict[str, object]:
        """Say in a collection's record what there is."""
        return {
            **({"lexical": self.lexical.model_dump(mode="json")} if self.lexical else {}),
            **({"tokens": self.tokens} if self.tokens else {}),
        }

    @property
    def names(self) -> frozenset[str]:
        """Names of the vectors that these are."""
        return frozenset([LEXICAL_NAME] * bool(self.lexical) + [TOKENS_NAME] * bool(self.tokens))

    def check(self, wanted: Legs, collection_name: str) -> None:
        """Refuse to take other legs for granted than those that are there.

        Raises:
            StoreError: With what is there and what was asked for.
        """
        for name in ("lexical", "tokens"):
            asked, found = getattr(wanted, name), getattr(self, name)
            if asked is not None and asked != found:
                raise StoreError(
                    f"collection {collection_name!r} keeps {self}; the store was opened for {name}={asked}. "
                    f"Open it without {name}=, which takes what is there; to change it, clear() the "
                    "collection, or name another, and index again"
                )

    def to_vectors(self, token_dim: int) -> dict[str, models.VectorParams]:
        """Build the multivector of a new collection: compared exactly, for few candidates, from the disk."""
        if self.tokens is None:
            return {}
        params = models.VectorParams(
            size=token_dim,
            distance=models.Distance.COSINE,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
            on_disk=True,
            datatype=_DATATYPES[self.tokens],
        )
        return {TOKENS_NAME: params}

    def to_sparse(self) -> dict[str, models.SparseVectorParams] | None:
        """Build the sparse vector of a new collection, whose engine counts how rare each word is."""
        return (
            {LEXICAL_NAME: models.SparseVectorParams(modifier=models.Modifier.IDF)} if self.lexical else None
        )

    def add_to(self, nodes: Sequence[BaseNode], points: Sequence[StoredPoint]) -> list[StoredPoint]:
        """Give points their words, and the token vectors that their nodes' vectors have with them.

        The words are those of the chunk and of the metadata in front of it, as an embedding model is shown
        them: so a title counts in every chunk of its document.
        """
        return [
            replace(point, others={**point.others, **self._vectors_of(node)})
            for node, point in zip(nodes, points, strict=True)
        ]

    def _vectors_of(self, node: BaseNode) -> dict[str, object]:
        vectors: dict[str, object] = {}
        if self.lexical is not None:
            vectors[LEXICAL_NAME] = self.lexical.to_document(
                node.get_content(metadata_mode=MetadataMode.EMBED)
            )
        if self.tokens is not None and (kept := tokens_of(node)) is not None:
            vectors[TOKENS_NAME] = to_units(kept)
        return vectors


NO_LEGS = Legs()


def read_token_dim(nodes: Sequence[BaseNode]) -> int:
    """Size of the nodes' token vectors; 0 if none has any.

    Raises:
        DimensionMismatchError: They differ in size.
    """
    sizes = {kept.shape[1] for node in nodes if (kept := tokens_of(node)) is not None}
    if len(sizes) > 1:
        raise DimensionMismatchError(
            f"the nodes' token vectors have {sorted(sizes)} numbers; expected one size. Embed all of them "
            "with one model"
        )
    return sizes.pop() if sizes else 0


def check_tokens(points: Sequence[StoredPoint], collection_name: str) -> None:
    """Refuse to write points without token vectors where the collection keeps them.

    Raises:
        MissingVectorError: Names the first of them.
    """
    bare = [point for point in points if TOKENS_NAME not in point.others]
    if bare:
        raise MissingVectorError(
            f"{len(bare)} of {len(points)} nodes (first point: {bare[0].id}) come without token vectors, "
            f"which collection {collection_name!r} keeps; expected what ContextualEmbedding makes with "
            "strategy 'late' or 'blend'. An IngestionPipeline's cache keeps JSON and loses them: run it with "
            "disable_cache=True, or clear the cache"
        )
