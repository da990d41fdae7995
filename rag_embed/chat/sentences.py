"""Sentences of a text, as characters."""

from __future__ import annotations

import re

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from rag_embed.spans import CharSpan

_BLOCK = re.compile(r"\S.*?(?=\n\s*\n|\n\s*(?:[*+•-]|\d{1,2}[.)])\s|\Z)", re.DOTALL)
"""Ends at a blank line, and before the next item of a list."""
_HEADING = re.compile(r"#{1,6}\s.*|[^\n]+\n\s*([*=~^#_+-])\1{2,}\s*")
_ABBREVIATIONS = frozenset(
    """dr mr mrs ms prof st jr sr e.g i.e cf vs etc al fig figs eq eqs ref refs nos vol pp ed eds approx ca
    resp inc ltd corp dept jan feb mar apr jun jul aug sep sept oct nov dec""".split()  # noqa: SIM905
)


def split_sentences(text: str) -> list[CharSpan]:
    """Find the sentences of a text, and the blocks of it that are none, such as code.

    Sentences are told by Punkt (Kiss & Strunk 2006) with abbreviations of English; none goes across a blank
    line or from one item of a list to the next. Headings are left out, and what holds no letter or digit.

    Returns:
        Half-open ranges in reading order, without white space around them.
    """
    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    tokenizer = PunktSentenceTokenizer(parameters)
    spans: list[CharSpan] = []
    for block in _BLOCK.finditer(text):
        if _HEADING.fullmatch(block[0]):
            continue
        for start, end in tokenizer.span_tokenize(block[0]):
            if re.search(r"\w", block[0][start:end]):
                spans.append(CharSpan(block.start() + start, block.start() + end))
    return spans
