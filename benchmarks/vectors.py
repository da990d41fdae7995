"""Chunk, query and list vectors of a retrieval set, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.evalsets import ChunkedDocument, EvalSet
from benchmarks.report import CACHE
from rag_embed import ContextualEmbedding, embed_isolated, embed_late
from rag_embed.listwise import embed_list
from rag_embed.prompts import ListPrompt

Mode = Literal["isolated", "late"]


class VectorCache:
    """Vectors of one retrieval set by one encoder.

    A file is named by the fingerprint of the vectors and a digest of what they are made of, so that a changed
    sample, text or encoder never meets an old file.
    """

    def __init__(self, evalset: EvalSet, model: ContextualEmbedding) -> None:
        self.evalset = evalset
        self.model = model
        self.encoder = model.encoder

    def chunks(self, mode: Mode, *, with_title: bool) -> Float[Tensor, "chunks dim"]:
        """One unit vector per chunk, in the order of `evalset.chunk_ids`."""

        def compute() -> Float[Tensor, "chunks dim"]:
            return torch.cat([self._embed(doc, mode, with_title) for doc in self.evalset.documents])

        content = [
            [doc.doc_id, doc.title if with_title else "", doc.text, [[s.start, s.end] for s in doc.spans]]
            for doc in self.evalset.documents
        ]
        return self._keep(f"{mode}{'-title' if with_title else ''}", content, compute)

    def _embed(self, doc: ChunkedDocument, mode: Mode, with_title: bool) -> Float[Tensor, "chunks dim"]:
        # As LlamaIndex renders metadata in front of a chunk.
        head = f"title: {doc.title}\n\n" if with_title and doc.title else ""
        if mode == "late":
            return embed_late(self.encoder, doc.text, doc.spans, head=head)
        return embed_isolated(self.encoder, [head + chunk for chunk in doc.chunks])

    def queries(self) -> Float[Tensor, "queries dim"]:
        """One unit vector per query."""
        texts = [self.encoder.profile.query_prefix + text for text in self.evalset.queries.values()]
        return self._keep("queries", texts, lambda: embed_isolated(self.encoder, texts))

    def lists(
        self, prompt: ListPrompt, pairs: Sequence[tuple[str, Sequence[str]]]
    ) -> Float[Tensor, "queries dim"]:
        """One list vector per query and its candidates' texts, one forward pass each."""
        content = [repr(prompt), [[query, list(candidates)] for query, candidates in pairs]]

        def compute() -> Float[Tensor, "queries dim"]:
            return torch.stack([embed_list(self.encoder, q, c, prompt=prompt).vector for q, c in pairs])

        return self._keep("lists", content, compute)

    def _keep(
        self, name: str, content: object, compute: Callable[[], Float[Tensor, "rows dim"]]
    ) -> Float[Tensor, "rows dim"]:
        strategy = "late" if name.startswith("late") else "isolated"
        fingerprint = self.model.model_copy(update={"strategy": strategy}).fingerprint()
        key = hashlib.sha256(json.dumps([fingerprint, content]).encode()).hexdigest()[:20]
        path = CACHE / "vectors" / f"{self.evalset.name}-{name}-{key}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path))
        vectors = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors.numpy())
        return vectors
