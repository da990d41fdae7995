"""A new encoder that asks a collection of old vectors, through a map between the two spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from llama_index.core.schema import BaseNode
from pydantic import PrivateAttr
from torch import Tensor
from typing_extensions import Self

from rag_embed.errors import InputError
from rag_embed.llamaindex.embedding import ContextualEmbedding
from rag_embed.query_map import QueryMap


class MappedEmbedding(ContextualEmbedding):
    """Embeds queries by a new encoder, and brings them into the space of an old one.

    See `rag_embed.query_map`. It only asks. Its fingerprint is that of no collection, so that no store takes
    vectors of it, and no reranker compares its tokens with those of the old encoder.
    """

    _map: QueryMap = PrivateAttr()

    @classmethod
    def of(cls, model: ContextualEmbedding, query_map: QueryMap) -> Self:
        """Give a model's queries a map."""
        made = cls(**{name: getattr(model, name) for name in model.model_fields_set})
        made._map = query_map
        return made

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "MappedEmbedding"

    @property
    def query_map(self) -> QueryMap:
        """The map."""
        return self._map

    def fingerprint(self) -> str:
        """Name the space as one that no collection has."""
        return f"{super().fingerprint()} mapped into another space"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Refuse: what is stored is embedded by one encoder or the other.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{len(nodes)} chunks are to be embedded by a model whose queries are mapped into an older "
            "space; expected queries alone. Embed chunks with the new model itself, into another collection"
        )

    def embed_query(self, query: str) -> Float[Tensor, " old_dim"]:
        """Embed a query and map it; of length 1."""
        return self._to_old(super().embed_query(query))

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        # Sentences that a query is compared with must be in its space.
        mapped: list[list[float]] = self._to_old(self.embedder.embed_texts(texts)).tolist()
        return mapped

    def _to_old(self, vectors: Float[Tensor, "*n new_dim"]) -> Float[Tensor, "*n old_dim"]:
        mapped = torch.from_numpy(self._map.apply(vectors.numpy()))
        return torch.nn.functional.normalize(mapped, dim=-1).float()
