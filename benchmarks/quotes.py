"""How often a sentence that is quoted as an answer holds the answer: by which way sentences are chosen.

Sets whose answers are characters. Passages are found by hybrid search; all ways choose from the same three.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document

from benchmarks.bootstrap import mean_interval
from benchmarks.evalsets import find_sets, load_set
from benchmarks.report import describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.chat.drafting import MOST_QUOTES, QUOTED_PASSAGES
from rag_embed.chat.passages import Passage
from rag_embed.chat.quotes import EVERY_TOKEN, WORDS_WEIGHT, Region, find_regions, quote_best, read_sentences
from rag_embed.chat.searching import Searcher
from rag_embed.chat.turns import Quote
from rag_embed.chat.words import score_words
from rag_embed.evaluation import EvalSet
from rag_embed.evaluation.sets import GoldSpan, keep_documents
from rag_embed.fusion import fuse
from rag_embed.late_interaction import TokenVectors
from rag_embed.max_sim import DEFAULT_FORM, max_sims, to_units

SETS = {"covidqa": (12, 80), "chroma_chunking": (3, 60), "cuad_small": (4, 40)}
"""Documents and questions; the way was chosen on twenty other documents of the first (seed 0)."""
LONGEST_DOCUMENT = 150_000
SEED = 1
BEFORE, OURS = "nearest sentence vector in each passage (before)", "late interaction and words"
_SENTENCE_BEFORE = re.compile(r"\S.*?(?:[.!?:](?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)

Scores = Float[np.ndarray, " sentences"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What all ways are given: a question, what was found, and the tokens of its sentences."""

    question: str
    query: TokenVectors
    regions: Sequence[Region]
    tokens: Sequence[TokenVectors]

    @property
    def quotes(self) -> list[Quote]:
        """All sentences."""
        return [region.quote(span) for region in self.regions for span in region.spans]

    def by_tokens(self, neighbours: int = EVERY_TOKEN.neighbours) -> Scores:
        """Late interaction, with every token, or with neighbours averaged as a store does it."""
        kept: Sequence[TokenVectors] = self.tokens
        if neighbours > EVERY_TOKEN.neighbours:
            kept = [to_units(DEFAULT_FORM.keep(torch.from_numpy(each)).numpy()) for each in self.tokens]
        return max_sims(self.query, kept).astype(np.float64)

    def by_words(self) -> Scores:
        """The words that question and sentence share."""
        return score_words(self.question, [quote.text for quote in self.quotes])


WAYS: dict[str, Callable[[Asked], Scores]] = {
    OURS: lambda asked: fuse(asked.by_tokens(), asked.by_words(), weight=WORDS_WEIGHT),
    "words alone": Asked.by_words,
    "late interaction alone": Asked.by_tokens,
    "4 tokens averaged, and words": lambda asked: fuse(
        asked.by_tokens(DEFAULT_FORM.neighbours), asked.by_words(), weight=WORDS_WEIGHT
    ),
}
"""What `rag_embed.chat` does, its parts, and the same with tokens as they are stored."""


def quote_before(model: ContextualEmbedding, question: str, passages: Sequence[Passage]) -> list[Quote]:
    """The sentence of each passage whose vector is nearest, cut at every colon: what the chatbot once did."""
    query = np.array(model.get_query_embedding(question))
    quotes = []
    for passage in passages:
        found = list(_SENTENCE_BEFORE.finditer(passage.text))
        vectors = np.array(model.get_text_embedding_batch([match.group() for match in found]))
        best = found[int(np.argmax(vectors @ query))]
        start, end = passage.start + best.start(), passage.start + best.end()
        quotes.append(Quote(passage.document, start, end, best.group(), 0.0))
    return quotes


def holds(quotes: Sequence[Quote], golds: Sequence[GoldSpan]) -> bool:
    """Whether one of the quotes holds one of the answers from its first character to its last."""
    return any(
        quote.document == gold.doc_id and quote.start <= gold.span.start and gold.span.end <= quote.end
        for quote in quotes
        for gold in golds
    )


def sample(name: str, documents: int, seed: int) -> EvalSet:
    """Some documents of a set, of those that are not books."""
    evalset = load_set(name, documents=None)
    short = [each.doc_id for each in evalset.documents if len(each.text) <= LONGEST_DOCUMENT]
    random.Random(seed).shuffle(short)
    return keep_documents(evalset, short[:documents])


def measure(model: ContextualEmbedding, evalset: EvalSet, most_questions: int) -> dict[str, object]:
    """Share of questions whose quotes hold the answer, and the characters quoted, by each way."""
    documents = [
        Document(
            text=each.text, id_=each.doc_id, metadata={"title": each.title} if evalset.has_titles else {}
        )
        for each in evalset.documents
    ]
    splitter = SentenceSplitter(chunk_size=256, chunk_overlap=0)
    parser = LateChunkingNodeParser(node_parser=splitter, embed_model=model)
    held: dict[str, list[bool]] = {}
    characters: dict[str, list[int]] = {}
    found: list[bool] = []
    with QdrantChunkStore("quotes", location=":memory:", lexical=True) as store:
        store.add(parser.get_nodes_from_documents(documents))
        searcher = Searcher(store, model)
        asked = sorted(name for name in evalset.queries if evalset.gold_spans.get(name))
        random.Random(SEED).shuffle(asked)
        asked = asked[:most_questions]
        for name in asked:
            question, golds = evalset.queries[name], evalset.gold_spans[name]
            passages = searcher.search(question).passages[:QUOTED_PASSAGES]
            ways = {BEFORE: quote_before(model, question, passages)}
            regions = find_regions(store, model, passages)
            query = model.embed_query_tokens(question)
            given = Asked(question, query, regions, read_sentences(model, regions))
            for way, score in WAYS.items():
                order = np.argsort(-score(given), kind="stable")[:MOST_QUOTES]
                ways[way] = [given.quotes[index] for index in order]
            if not found:  # the first one shows that this is what the chatbot quotes
                quoted = quote_best(store, model, question, passages, most=MOST_QUOTES)
                assert [quote.place for _, quote in quoted] == [quote.place for quote in ways[OURS]]
            for way, quotes in ways.items():
                held.setdefault(way, []).append(holds(quotes, golds))
                held.setdefault(f"{way}: first", []).append(holds(quotes[:1], golds))
                characters.setdefault(way, []).append(sum(len(quote.text) for quote in quotes))
            found.append(holds([Quote(p.document, p.start, p.end, p.text, 0.0) for p in passages], golds))

    def interval(values: Sequence[float]) -> tuple[float, float, float]:
        middle, low, high = mean_interval(np.array(values, dtype=float))
        return round(middle, 4), round(low, 4), round(high, 4)

    rows = {
        way: {
            "held": interval(held[way]),
            "held_by_first": interval(held[f"{way}: first"]),
            "gain": interval(np.subtract(np.array(held[way], float), np.array(held[BEFORE], float)).tolist()),
            "characters": round(float(np.mean(characters[way])), 1),
        }
        for way in characters
    }
    passages_hold = round(float(np.mean(found)), 4)
    return {"queries": len(asked), "documents": len(documents), "passages_hold": passages_hold, "rows": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="which of the sets")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(strategy="late", dtype="float32")
    results = {}
    for name in find_sets(options.sets):
        documents, questions = (2, 4) if options.quick else SETS[name]
        results[name] = measure(model, sample(name, documents, SEED), questions)
    write_set_report("quotes", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
