"""Quotes: the sentences of passages, and beside them, that answer a question, with their exact characters.

Sentences are compared with the question token by token (late interaction, `max_sim.py`), by the states that
their tokens have in the document, and by the words that both share. Stored token vectors average neighbours
across the ends of sentences, so the few windows around the passages are read again, every token kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode

from rag_embed.chat.passages import Passage
from rag_embed.chat.sentences import split_sentences
from rag_embed.chat.turns import Quote
from rag_embed.chat.words import score_words
from rag_embed.chunked_text import ChunkedText
from rag_embed.errors import AlignmentError, ContextOverflowError
from rag_embed.fusion import fuse
from rag_embed.guards import compares_tokens
from rag_embed.late_interaction import TokenVectors
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.llamaindex.context import group_by_context, rebuild_context, shared_metadata
from rag_embed.llamaindex.store_access import StoreAccess
from rag_embed.max_sim import TokenForm, max_sims, to_units
from rag_embed.qdrant import QdrantChunkStore
from rag_embed.spans import CharSpan
from rag_embed.stamp import ChunkStamp

EVERY_TOKEN = TokenForm("float16", neighbours=1)
WORDS_WEIGHT = 1 / 3
"""Share of the words; docs/benchmarks.md has late interaction and words alone beside it."""
NEIGHBOURS = 1
"""Chunks on each side of a passage whose sentences may be quoted too."""


@dataclass(frozen=True, slots=True)
class Region:
    """Characters of a text that are looked at for one passage.

    Attributes:
        row: Which passage.
        passage: The passage.
        text: What stands around it: its document, or itself.
        head: What is known of the document.
        spans: Its sentences, and those beside it, in the text.
        shift: What turns characters of the text into those of the document.
    """

    row: int
    passage: Passage
    text: str
    head: str
    spans: Sequence[CharSpan]
    shift: int

    def quote(self, span: CharSpan) -> Quote:
        """Quote a sentence, not yet compared."""
        text = self.text[span.start : span.end]
        return Quote(self.passage.document, span.start + self.shift, span.end + self.shift, text, 0.0)


def quote_best(
    store: QdrantChunkStore,
    embed_model: ContextualEmbedding,
    question: str,
    passages: Sequence[Passage],
    *,
    most: int,
) -> list[tuple[Passage, Quote]]:
    """Choose the sentences nearest to a question, from whichever passages they are.

    Returns:
        At most so many, best first, each with the passage in or beside which it stands.
    """
    found = sorted(_score(store, embed_model, question, passages), key=lambda pair: -pair[1].score)
    return [(passages[row], quote) for row, quote in found[:most]]


def quote_passages(
    store: QdrantChunkStore, embed_model: ContextualEmbedding, question: str, passages: Sequence[Passage]
) -> list[Quote | None]:
    """Find the sentence nearest to a question in or beside each passage; None where there is no sentence."""
    best: list[Quote | None] = [None] * len(passages)
    for row, quote in _score(store, embed_model, question, passages):
        known = best[row]
        if known is None or quote.score > known.score:
            best[row] = quote
    return best


def _score(
    store: QdrantChunkStore, embed_model: ContextualEmbedding, question: str, passages: Sequence[Passage]
) -> list[tuple[int, Quote]]:
    """Every sentence once, with the passage it belongs to, in the order of the passages."""
    regions = find_regions(store, embed_model, passages)
    if not regions:
        return []
    quotes = [(region.row, region.quote(span)) for region in regions for span in region.spans]
    words = score_words(question, [quote.text for _, quote in quotes])
    scores = fuse(_compare(embed_model, question, regions), words, weight=WORDS_WEIGHT).tolist()
    return [(row, replace(quote, score=score)) for (row, quote), score in zip(quotes, scores, strict=True)]


def _compare(
    embed_model: ContextualEmbedding, question: str, regions: Sequence[Region]
) -> Float[np.ndarray, " sentences"]:
    """Compare a question with sentences: token by token, or by vectors where that cannot be.

    Tokens of some models mean nothing by themselves, and a question may be longer than an encoder reads.
    """
    if compares_tokens(embed_model.profile, embed_model.insist):
        with suppress(ContextOverflowError):
            query = embed_model.embed_query_tokens(question)
            return max_sims(query, read_sentences(embed_model, regions)).astype(np.float64)
    texts = [region.quote(span).text for region in regions for span in region.spans]
    vectors = np.array(embed_model.get_text_embedding_batch(texts))
    return np.asarray(vectors @ np.array(embed_model.get_query_embedding(question)), dtype=np.float64)


def read_sentences(embed_model: ContextualEmbedding, regions: Sequence[Region]) -> list[TokenVectors]:
    """Read the windows that hold sentences, and keep the state of every token, as unit vectors.

    Returns:
        Those of each sentence of each region, in order.
    """
    embedder = replace(embed_model.embedder, token_form=EVERY_TOKEN)
    documents = [ChunkedText(region.text, region.spans, head=region.head) for region in regions]
    return [
        to_units(kept)
        for document in documents
        for kept in embedder.read_tokens(document, range(len(document.spans)))
    ]


def find_regions(
    store: QdrantChunkStore,
    embed_model: ContextualEmbedding,
    passages: Sequence[Passage],
    *,
    neighbours: int = NEIGHBOURS,
) -> list[Region]:
    """Find where to look for sentences: in each passage and so many chunks on each side of it.

    A sentence that two passages share is the first one's. Passages without a sentence of their own have no
    region.
    """
    nodes = StoreAccess(store).get_documents([passage.document for passage in passages])
    contexts, _ = group_by_context(nodes, need_stamps=False)
    homes = {node.node_id: name for name, members in contexts.items() for node, _ in members}
    texts = {
        name: _rebuild(contexts[name]) for name in {homes.get(each.node_id) for each in passages} if name
    }
    taken: set[tuple[str, int]] = set()
    regions: list[Region] = []
    for row, passage in enumerate(passages):
        name = homes.get(passage.node_id, "")
        text = texts.get(name)
        if text is None:
            alone = split_sentences(passage.text)
            regions.append(Region(row, passage, passage.text, "", alone, passage.start))
            continue
        members = contexts[name]
        start, end, shift = _widen(passage, members, neighbours)
        spans = [
            CharSpan(start + span.start, start + span.end)
            for span in split_sentences(text[start:end])
            if (name, start + span.start) not in taken
        ]
        taken |= {(name, span.start) for span in spans}
        is_headed = embed_model.recipe.head == "metadata"
        head = shared_metadata([node for node, _ in members]) if is_headed else ""
        regions.append(Region(row, passage, text, head, spans, shift))
    return [region for region in regions if region.spans]


def _rebuild(members: Sequence[tuple[BaseNode, ChunkStamp]]) -> str | None:
    """The text that chunks were cut from; None if not all of it is stored, so that they are read alone."""
    try:
        return rebuild_context(members) if members else None
    except AlignmentError:
        return None


def _widen(
    passage: Passage, members: Sequence[tuple[BaseNode, ChunkStamp]], neighbours: int
) -> tuple[int, int, int]:
    """Characters of a passage with its neighbours in their text, and what turns them into the document's."""
    row = sorted((stamp.start, stamp.end, node.node_id) for node, stamp in members)
    at = next(index for index, (_, _, node_id) in enumerate(row) if node_id == passage.node_id)
    near = row[max(0, at - neighbours) : at + neighbours + 1]
    return min(start for start, _, _ in near), max(end for _, end, _ in near), passage.start - row[at][0]
