"""Sentences of a text, as characters."""

from __future__ import annotations

import re

from llama_index.core.utils import globals_helper

from rag_embed.spans import CharSpan

_BLOCK = re.compile(r"\S.*?(?=\n\s*\n|\n\s*(?:[*+•-]|\d{1,2}[.)])\s|\Z)", re.DOTALL)
"""Ends at a blank line, and before the next item of a list."""
_HEADING = re.compile(r"#{1,6}\s.*|[^\n]+\n\s*([*=~^#_+-])\1{2,}\s*")


def split_sentences(text: str) -> list[CharSpan]:
    """Find the sentences of a text, and the blocks of it that are none, such as code.

    Sentences are told by Punkt (Kiss & Strunk 2006), which LlamaIndex carries; none goes across a blank line
    or from one item of a list to the next. Headings are left out, and what holds no letter or digit.

    Returns:
        Half-open ranges in reading order, without white space around them.
    """
    tokenizer = globals_helper.punkt_tokenizer
    spans: list[CharSpan] = []
    for block in _BLOCK.finditer(text):
        if _HEADING.fullmatch(block[0]):
            continue
        for start, end in tokenizer.span_tokenize(block[0]):
            if re.search(r"\w", block[0][start:end]):
                spans.append(CharSpan(block.start() + start, block.start() + end))
    return spans
