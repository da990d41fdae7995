"""Quotes: the sentences of passages, and beside them, that answer a question, with their exact characters.

Sentences are compared with the question token by token (late interaction, `max_sim.py`), by the states that
their tokens have in the document, and by the words that both share. Stored token vectors average neighbours
across the ends of sentences, so the few windows around the passages are read again, every token kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from llama_index.core.schema import BaseNode

from rag_embed.chat.documents import fetch_nodes
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
class _Region:
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
    regions = [region for region in _find_regions(store, embed_model, passages) if region.spans]
    if not regions:
        return []
    similar = np.concatenate(list(_compare(embed_model, question, regions)))
    quotes = [(region.row, region.quote(span)) for region in regions for span in region.spans]
    words = score_words(question, [quote.text for _, quote in quotes])
    scores = fuse(similar, words, weight=WORDS_WEIGHT).tolist()
    return [(row, replace(quote, score=score)) for (row, quote), score in zip(quotes, scores, strict=True)]


def _compare(
    embed_model: ContextualEmbedding, question: str, regions: Sequence[_Region]
) -> Iterator[Float[np.ndarray, " sentences"]]:
    """Compare a question with sentences: token by token, or by vectors where that cannot be.

    Tokens of some models mean nothing by themselves, and a question may be longer than an encoder reads.
    """
    query: TokenVectors | None = None
    if compares_tokens(embed_model.profile, embed_model.insist):
        with suppress(ContextOverflowError):
            query = embed_model.embed_query_tokens(question)
    if query is None:
        vector = np.array(embed_model.get_query_embedding(question))
        for region in regions:
            texts = [region.text[span.start : span.end] for span in region.spans]
            yield np.array(embed_model.get_text_embedding_batch(texts)) @ vector
        return
    embedder = replace(embed_model.embedder, token_form=EVERY_TOKEN)
    for region in regions:
        document = ChunkedText(region.text, region.spans, head=region.head)
        kept = embedder.read_tokens(document, range(len(region.spans)))
        yield max_sims(query, [to_units(each) for each in kept]).astype(np.float64)


def _find_regions(
    store: QdrantChunkStore, embed_model: ContextualEmbedding, passages: Sequence[Passage]
) -> Iterator[_Region]:
    """Where to look for each passage; what two passages share is the first one's."""
    contexts, _ = group_by_context(
        fetch_nodes(store, [passage.document for passage in passages]), need_stamps=False
    )
    homes = {node.node_id: name for name, members in contexts.items() for node, _ in members}
    texts: dict[str, str | None] = {}
    taken: set[tuple[str, int]] = set()
    for row, passage in enumerate(passages):
        name = homes.get(passage.node_id, "")
        members = contexts.get(name, [])
        if name not in texts:
            texts[name] = _rebuild(members)
        text = texts[name]
        if text is None:
            yield _Region(row, passage, passage.text, "", split_sentences(passage.text), passage.start)
            continue
        start, end, shift = _widen(passage, members)
        spans = [
            CharSpan(start + span.start, start + span.end)
            for span in split_sentences(text[start:end])
            if (name, start + span.start) not in taken
        ]
        taken |= {(name, span.start) for span in spans}
        nodes = [node for node, _ in members]
        head = shared_metadata(nodes) if embed_model.recipe.head == "metadata" else ""
        yield _Region(row, passage, text, head, spans, shift)


def _rebuild(members: Sequence[tuple[BaseNode, ChunkStamp]]) -> str | None:
    """The text that chunks were cut from; None if not all of it is stored, so that they are read alone."""
    try:
        return rebuild_context(members) if members else None
    except AlignmentError:
        return None


def _widen(passage: Passage, members: Sequence[tuple[BaseNode, ChunkStamp]]) -> tuple[int, int, int]:
    """Characters of a passage with its neighbours in their text, and what turns them into the document's."""
    row = sorted((stamp.start, stamp.end, node.node_id) for node, stamp in members)
    at = next(index for index, (_, _, node_id) in enumerate(row) if node_id == passage.node_id)
    near = row[max(0, at - NEIGHBOURS) : at + NEIGHBOURS + 1]
    return min(start for start, _, _ in near), max(end for _, end, _ in near), passage.start - row[at][0]
