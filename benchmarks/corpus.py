"""Documents that anyone has: the language reference that ships inside CPython."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document

from rag_embed import CharSpan, Encoder, LateChunkingNodeParser
from rag_embed.spans import align_tokens

CHUNK_SIZES = (500, 384, 256, 192, 128, 96, 64)
"""Chunk sizes in the model's tokens; the longest documents get the longest chunks."""


@dataclass(frozen=True, slots=True)
class CutDocument:
    """A document and its chunks."""

    text: str
    nodes: list[BaseNode]


def read_documents(count: int, *, seed: int = 0, is_short: bool = False) -> list[Document]:
    """So many topics of `pydoc_data`, drawn at random; short ones end after 1000 characters."""
    names = sorted(topics)
    if count < len(names):
        names = sorted(random.Random(seed).sample(names, count))
    return [Document(text=topics[name][: 1000 if is_short else None], doc_id=name) for name in names]


def read_text(characters: int) -> str:
    """So many characters of the topics, over and over."""
    whole = "\n\n".join(topics[name] for name in sorted(topics))
    return (whole * (characters // len(whole) + 1))[:characters]


def count_tokens(encoder: Encoder, text: str, spans: Sequence[CharSpan]) -> list[int]:
    """Tokens of each span, as they stand in the whole text."""
    tokens = encoder.tokenize(text)
    return [len(span) for span in align_tokens(text, tokens.starts, tokens.ends, spans)]


def cut_documents(documents: list[Document], encoder: Encoder) -> list[CutDocument]:
    """Chunk with LlamaIndex's sentence splitter, in sizes that vary from document to document.

    Each size cuts about as much text as any other. No chunk is too long for the model, so nobody has to
    truncate, and chunks do not overlap.
    """
    result = []
    cut_characters = dict.fromkeys(CHUNK_SIZES, 0)
    for document in sorted(documents, key=lambda document: -len(document.text)):
        size = min(CHUNK_SIZES, key=cut_characters.__getitem__)
        cut_characters[size] += len(document.text)
        splitter = SentenceSplitter(
            chunk_size=size, chunk_overlap=0, tokenizer=lambda text: encoder.tokenize(text).ids.tolist()
        )
        nodes = LateChunkingNodeParser(node_parser=splitter).get_nodes_from_documents([document])
        longest = max(len(encoder.tokenize(node.get_content())) for node in nodes)
        if longest > encoder.capacity:
            raise ValueError(f"a chunk has {longest} tokens, the model reads {encoder.capacity}")
        result.append(CutDocument(document.text, nodes))
    return result
