"""What an adapter is trained on: find the answer among its neighbours and among other documents' chunks.

* in-sequence and in-batch InfoNCE: Conti et al. 2025, "Context is Gold to find the Gold Passage" (InSeNT),
  arXiv:2505.24782, section 4.
* the mask of false negatives and the document-level term: pplx-embed's report, training of context-v1.
* a term that holds the vectors near the isolated ones: ours; queries are encoded by the untouched encoder,
  so a vector that drifts loses what that encoder knew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Weights of the terms.

    Attributes:
        in_sequence: Share of the in-sequence part in the chunk-level term, lambda in InSeNT.
        document: Share of the document-level term.
        tokens: Weight of the token-level term; 0 leaves it out.
        hold: Weight of the distance to the vectors they are held near.
        scale: Inverse temperature of the cosines.
        margin: A chunk of another document that scores so much above the answer is taken for a second answer
            and masked.
    """

    in_sequence: float = 0.2
    document: float = 0.1
    tokens: float = 0.0
    hold: float = 0.5
    scale: float = 20.0
    margin: float = 0.1


@dataclass(frozen=True, slots=True)
class BatchTokens:
    """Unit vectors of the tokens of one step, each in the order of the queries or the chunks.

    Attributes:
        queries: By the untouched encoder.
        query_sizes: How many of them each query has.
        chunks: By the encoder in training.
        chunk_sizes: How many of them each chunk has.
    """

    queries: Float[Tensor, "query_tokens dim"]
    query_sizes: list[int]
    chunks: Float[Tensor, "chunk_tokens dim"]
    chunk_sizes: list[int]

    def similarities(self) -> Float[Tensor, "queries chunks"]:
        """MaxSim: the mean over a query's tokens of the cosine with the nearest token of a chunk."""
        cosines = self.queries @ self.chunks.T
        nearest = torch.stack([part.amax(dim=1) for part in cosines.split(self.chunk_sizes, dim=1)], dim=1)
        return torch.stack([part.mean(dim=0) for part in nearest.split(self.query_sizes)])


@dataclass(frozen=True, slots=True)
class BatchVectors:
    """Unit vectors of one step.

    Attributes:
        queries: By the untouched encoder.
        chunks: By the encoder in training, all chunks of all windows.
        golds: For each query the row of its answer in `chunks`.
        targets: What some chunks are held near: their isolated vectors, or a blend.
        held: Their rows in `chunks`.
        documents: For each chunk the number of its document.
        is_rival: Whether a chunk of another document may be a wrong answer to the query.
        tokens: What late interaction compares; None leaves the token-level term out.
        in_context: Of all chunks in their windows, where `chunks` are blends; then these are held.
    """

    queries: Float[Tensor, "queries dim"]
    chunks: Float[Tensor, "chunks dim"]
    golds: Int[Tensor, " queries"]
    targets: Float[Tensor, "held dim"]
    held: Int[Tensor, " held"]
    documents: Int[Tensor, " chunks"]
    is_rival: Bool[Tensor, "queries chunks"]
    tokens: BatchTokens | None = None
    in_context: Float[Tensor, "chunks dim"] | None = None


def contrastive_loss(batch: BatchVectors, options: LossOptions) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss and their weighted sum "total", each a mean over the queries."""
    terms = _chunk_terms(batch, batch.queries @ batch.chunks.T, options)
    held = (batch.chunks if batch.in_context is None else batch.in_context)[batch.held]
    terms |= {
        "document": _document_term(batch, options),
        "hold": (1 - (held * batch.targets).sum(dim=1)).mean(),
    }
    terms["total"] = (
        (1 - options.document) * _mix(terms, options)
        + options.document * terms["document"]
        + options.hold * terms["hold"]
    )
    if batch.tokens is not None:
        terms["tokens"] = _mix(_chunk_terms(batch, batch.tokens.similarities(), options), options)
        terms["total"] = terms["total"] + options.tokens * terms["tokens"]
    return terms


def _mix(terms: dict[str, Float[Tensor, ""]], options: LossOptions) -> Float[Tensor, ""]:
    return options.in_sequence * terms["in_sequence"] + (1 - options.in_sequence) * terms["in_batch"]


def _chunk_terms(
    batch: BatchVectors, similarities: Float[Tensor, "queries chunks"], options: LossOptions
) -> dict[str, Float[Tensor, ""]]:
    """InfoNCE of query and chunk: against its document's other chunks, and those of other documents."""
    rows = torch.arange(len(batch.queries))
    gold_scores = similarities[rows, batch.golds]
    own = batch.documents[batch.golds][:, None] == batch.documents[None, :]
    is_gold = torch.zeros_like(own).index_put((rows, batch.golds), torch.tensor(True))
    # The same question asked twice, or several answers to one: other golds are no wrong answers.
    same_question = batch.queries @ batch.queries.T > 1 - 1e-4
    is_answer = torch.zeros_like(similarities).index_add(1, batch.golds, same_question.float()) > 0
    is_false_negative = similarities.detach() > gold_scores.detach()[:, None] + options.margin
    allowed = batch.is_rival & ~is_false_negative & ~is_answer & ~own

    def info_nce(candidates: Bool[Tensor, "queries chunks"]) -> Float[Tensor, ""]:
        logits = (options.scale * similarities).masked_fill(~(candidates | is_gold), -torch.inf)
        return cross_entropy(logits, batch.golds)

    return {"in_sequence": info_nce(own & ~is_answer), "in_batch": info_nce(allowed)}


def _document_term(batch: BatchVectors, options: LossOptions) -> Float[Tensor, ""]:
    """InfoNCE of query and document, whose vector is the mean of its chunks in the step."""
    count = int(batch.documents.max()) + 1
    sums = torch.zeros(count, batch.chunks.shape[1]).index_add(0, batch.documents, batch.chunks)
    documents = torch.nn.functional.normalize(sums, dim=1)
    owners = batch.documents[batch.golds]
    rivals = torch.zeros(len(batch.queries), count).index_add(1, batch.documents, batch.is_rival.float()) > 0
    rivals[torch.arange(len(owners)), owners] = True
    logits = (options.scale * batch.queries @ documents.T).masked_fill(~rivals, -torch.inf)
    return cross_entropy(logits, owners)
