"""Queries made from a corpus that has none.

The inverse cloze task (Lee, Chang and Toutanova 2019, "Latent Retrieval for Weakly Supervised Open Domain
Question Answering", arXiv:1906.00300, section 3): a sentence is taken out of a chunk and becomes the query,
the rest of the chunk is its answer. Differences: the sentence is always taken out, out of the whole document;
and every second query that can names its document, by the words that distinguish it from the others and that
the answer itself does not hold. So "plain" queries ask what a chunk can answer alone, and "named" ones what
it can answer only with its document. How people ask lies somewhere between; the kinds are reported apart.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer

from rag_embed.errors import InputError
from rag_embed.evaluation.lexical import split_words
from rag_embed.evaluation.sets import EvalDocument, EvalSet, name_chunk
from rag_embed.spans import CharSpan

PLAIN, NAMED = "plain", "named"
NAME_WORDS = 3

_SENTENCE_WORDS = (5, 40)
_LEFT_WORDS = 15

Split = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class Cloze:
    """A sentence that may be taken out.

    Attributes:
        chunk: Position of its chunk in the document.
        span: Its characters in the document.
    """

    chunk: int
    span: CharSpan


def make_proxy_queries(evalset: EvalSet, count: int, *, seed: int = 0) -> EvalSet:
    """Make queries out of the documents, and the documents without these sentences.

    Args:
        evalset: Chunked documents; queries that it has are replaced.
        count: How many queries; fewer if the documents have fewer chunks that can spare a sentence.
        seed: Of the drawing. Documents take turns, so a long one does not ask all the questions.

    Raises:
        InputError: No chunk can spare a sentence.
    """
    split = split_by_sentence_tokenizer()
    generator = random.Random(seed)
    drawn = _draw(evalset.documents, split, generator, count)
    if not drawn:
        raise InputError(
            f"no chunk of {len(evalset.documents)} documents has a sentence of {_SENTENCE_WORDS[0]} to "
            f"{_SENTENCE_WORDS[1]} words and {_LEFT_WORDS} words beside it; expected prose to make queries "
            "from. Bring your own with --queries, or take larger chunks"
        )
    names = Namer(evalset.documents)
    documents: list[EvalDocument] = []
    queries: dict[str, str] = {}
    golds: dict[str, dict[str, int]] = {}
    kinds: dict[str, str] = {}
    nameable = 0
    for doc in evalset.documents:
        clozes = drawn.get(doc.doc_id, [])
        documents.append(take_out(doc, [cloze.span for cloze in clozes]))
        for cloze in clozes:
            query_id = f"proxy-{len(queries) + 1}"
            sentence = " ".join(doc.text[cloze.span.start : cloze.span.end].split())
            name = names.name(doc.doc_id, documents[-1].chunks[cloze.chunk], sentence)
            nameable += bool(name)
            is_named = bool(name) and nameable % 2 == 1
            queries[query_id] = f"{' '.join(name)}: {sentence}" if is_named else sentence
            kinds[query_id] = NAMED if is_named else PLAIN
            golds[query_id] = {name_chunk(doc.doc_id, cloze.chunk): 1}
    named = sum(kind == NAMED for kind in kinds.values())
    warning = (
        f"The {len(queries)} queries are PROXIES, made from the corpus: each is a sentence taken out of a "
        f"chunk, and the rest of that chunk is its only answer; {named} of them also hold {NAME_WORDS} words "
        "that distinguish the document. They show which arm connects a text with its surroundings, not how "
        "well it answers people's questions, and other chunks that would do as well count as wrong. Decide "
        "on real queries where there are any."
    )
    return replace(
        evalset,
        documents=tuple(documents),
        queries=queries,
        golds=golds,
        gold_spans={},
        kinds=kinds,
        unit="chunk",
        warnings=(*evalset.warnings, warning),
    )


def take_out(document: EvalDocument, spans: list[CharSpan]) -> EvalDocument:
    """Remove characters from a document; its chunks keep theirs."""
    removed = sorted(spans)

    def moved(position: int) -> int:
        return position - sum(max(0, min(position, span.end) - span.start) for span in removed)

    kept = [CharSpan(moved(span.start), moved(span.end)) for span in document.spans]
    pieces, start = [], 0
    for span in removed:
        pieces.append(document.text[start : span.start])
        start = span.end
    return replace(document, text="".join([*pieces, document.text[start:]]), spans=tuple(kept))


class Namer:
    """Knows the words by which documents differ.

    Args:
        documents: All of them.
    """

    def __init__(self, documents: tuple[EvalDocument, ...]) -> None:
        self._counts: Mapping[str, Counter[str]] = {
            doc.doc_id: Counter(split_words(doc.text)) for doc in documents
        }
        self._spread = Counter(word for counts in self._counts.values() for word in counts)

    def name(self, doc_id: str, answer: str, sentence: str) -> list[str]:
        """Find the words of most weight, frequent here and rare elsewhere, outside answer and sentence."""
        taken = {*split_words(answer), *split_words(sentence)}
        total = len(self._counts)
        weights = {
            word: count * math.log(total / self._spread[word])
            for word, count in self._counts[doc_id].items()
            if word not in taken and self._spread[word] < total and len(word) > 2 and not word.isnumeric()
        }
        return sorted(weights, key=lambda word: (-weights[word], word))[:NAME_WORDS]


def _draw(
    documents: tuple[EvalDocument, ...], split: Split, generator: random.Random, count: int
) -> dict[str, list[Cloze]]:
    """Draw one sentence of one more chunk from each document in turn."""
    order = generator.sample(documents, len(documents))
    turns = {doc.doc_id: _draw_from(doc, split, generator) for doc in order}
    drawn: dict[str, list[Cloze]] = {}
    left = count
    while turns and left:
        for doc_id in list(turns):
            cloze = next(turns[doc_id], None)
            if cloze is None:
                del turns[doc_id]
            elif left:
                drawn.setdefault(doc_id, []).append(cloze)
                left -= 1
    return {doc_id: sorted(clozes, key=lambda cloze: cloze.span) for doc_id, clozes in drawn.items()}


def _draw_from(document: EvalDocument, split: Split, generator: random.Random) -> Iterator[Cloze]:
    """Draw chunks in random order, from each a sentence that stands in no other chunk."""
    for chunk in generator.sample(range(len(document.spans)), len(document.spans)):
        own = document.spans[chunk]
        choices = [
            span
            for span in _sentences(document.text, own, split)
            if not any(
                other.start < span.end and span.start < other.end
                for number, other in enumerate(document.spans)
                if number != chunk
            )
        ]
        if choices:
            yield Cloze(chunk, generator.choice(choices))


def _sentences(text: str, chunk: CharSpan, split: Split) -> Iterator[CharSpan]:
    """Sentences of a chunk that make a query and leave an answer."""
    whole = text[chunk.start : chunk.end]
    total = len(split_words(whole))
    sentences = split(whole)
    # They join up to the text but for the white space in front of the first.
    start = chunk.end - sum(map(len, sentences))
    for sentence in sentences:
        span = CharSpan(start, start + len(sentence))
        start = span.end
        words = len(split_words(sentence))
        if _SENTENCE_WORDS[0] <= words <= _SENTENCE_WORDS[1] and total - words >= _LEFT_WORDS:
            yield span
