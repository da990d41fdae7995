"""Words that say what a text is about, and how well texts share them with a question."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

PREPOSITIONS = frozenset(
    """for in on at to of with without by from under over after before during between until if
    since""".split()  # noqa: SIM905
)
FRAGMENT_STARTS = PREPOSITIONS | frozenset(
    """the a an my your our only even not why how when where who whom whose which what""".split()  # noqa: SIM905
)
"""Words that a question may begin with and not be a whole one: "in winter?", "why?"."""
VERBS = frozenset(
    """is are was were be been am do does did has have had can could will would shall should must may
    might""".split()  # noqa: SIM905
)
EMPTY_WORDS = (
    FRAGMENT_STARTS
    | VERBS
    | frozenset(
        """i me we us you it its they them their he him his she her this that these those there here one
    ones and or but so also then than as about into out up down off again more most much many few less
    some any all each other another same such no nor too very just now still else instead exactly really
    please tell say said explain describe show give know want need happen happens happened happening
    mean means meant work works get gets got use used using call called let lets go goes come comes make
    makes made take takes kind sort way ways thing things long old often don't doesn't didn't isn't
    aren't wasn't can't won't what's it's""".split()  # noqa: SIM905
    )
)
"""English words that say nothing of what a question is about."""

_TERM = re.compile(r"(?<![\w-])-{1,2}\w+|\w+")
_K, _B = 1.2, 0.75


def split_words(text: str) -> list[str]:
    """Words as they are written, without the punctuation around them; "-O" and "f-string" stay whole."""
    stripped = (word.strip("?!.,;:\"'()[]{}“”‘’`") for word in text.split())
    return [word for word in stripped if word]


def content_words(text: str) -> list[str]:
    """The words of a question that say what it is about, in order, each once."""
    found: dict[str, str] = {}
    for word in split_words(text):
        if word.lower() not in EMPTY_WORDS:
            found.setdefault(word.lower(), word)
    return list(found.values())


def score_words(question: str, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
    """Score texts by the words that they share with a question, as they are written; 0 where it is none.

    BM25 (Robertson & Zaragoza 2009), with document frequencies and lengths counted over these texts. Unlike a
    store's words, single letters count, and so does the dash of an option such as "-O".
    """
    counts = [Counter(_split_terms(text)) for text in texts]
    average = sum(count.total() for count in counts) / max(1, len(counts)) or 1.0
    scores = np.zeros(len(texts))
    for term in set(_split_terms(question)):
        having = sum(term in count for count in counts)
        idf = math.log(1 + (len(counts) - having + 0.5) / (having + 0.5))
        for row, count in enumerate(counts):
            if term in count:
                length = 1 - _B + _B * count.total() / average
                scores[row] += idf * count[term] * (_K + 1) / (count[term] + _K * length)
    return scores


def _split_terms(text: str) -> list[str]:
    return [_to_singular(term) for term in _TERM.findall(text.casefold()) if term not in EMPTY_WORDS]


def _to_singular(term: str) -> str:
    return term[:-1] if len(term) > 3 and term.endswith("s") and not term.endswith("ss") else term
