"""One corpus in two collections, and what each of three ways finds in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document

from rag_embed.chat.passages import Passage
from rag_embed.chat.searching import Searcher
from rag_embed.indexes.opening import Place
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.llamaindex.corpus import Corpus
from rag_embed.qdrant import QdrantChunkStore

ISOLATED, CONTEXTUAL, HYBRID = "isolated chunks", "chunks in context", "in context, with words"

# Two where context and words find more, one where they change little, one where they find less.
PYDOC_QUESTIONS = (
    "What happens when the finally clause executes a return statement?",
    "How is an f-string nested?",
    "When are default parameter values evaluated?",
    "What does yield from do with exceptions?",
)
_DERIVED_QUESTIONS = 3
_DERIVED_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one question finds.

    Attributes:
        query: The question.
        results: Passages by the way they were found.
    """

    query: str
    results: dict[str, Sequence[Passage]]


class Bench:
    """The same documents, chunked once in the same way, in a collection of each kind.

    Args:
        folder: Of the embedded engine.
        source: Name of the corpus; collections are called after it.
        chunk_size: Most tokens of a chunk.
        top_k: Passages per question.
    """

    def __init__(self, folder: Path, source: str, *, chunk_size: int, top_k: int) -> None:
        self._top_k = top_k
        self._parser = LateChunkingNodeParser(
            node_parser=SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0)
        )
        self._exit = ExitStack()
        self._parts: dict[str, tuple[QdrantChunkStore, ContextualEmbedding]] = {}
        for name, model in (
            (ISOLATED, ContextualEmbedding(strategy="isolated")),
            (HYBRID, ContextualEmbedding(strategy="late")),
        ):
            place = Place(f"{source}-{'isolated' if name == ISOLATED else 'hybrid'}", folder)
            existing = place.open_existing()
            if existing is not None:
                with closing(existing[0]) as old:
                    if existing[1].fingerprint != model.fingerprint():
                        old.clear()  # a demo of an earlier version, with nothing that cannot be made again
            store = place.open(lexical=name == HYBRID)
            self._exit.callback(store.close)
            self._parts[name] = (store, model)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def names(self) -> list[str]:
        """Names of the collections' kinds."""
        return list(self._parts)

    def corpus(self, name: str) -> Corpus:
        """What keeps one of the collections up to date."""
        store, model = self._parts[name]
        return Corpus(store, embed_model=model, node_parser=self._parser)

    def compare(self, query: str) -> Comparison:
        """Ask all three ways."""
        ways = ((ISOLATED, ISOLATED, False), (CONTEXTUAL, HYBRID, False), (HYBRID, HYBRID, True))
        results: dict[str, Sequence[Passage]] = {}
        for title, name, with_words in ways:
            store, model = self._parts[name]
            searcher = Searcher(store, model, top_k=self._top_k, rerank="none", with_words=with_words)
            results[title] = searcher.search(query).passages
        return Comparison(query, results)


def derive_questions(documents: Sequence[Document]) -> list[str]:
    """Take something to ask out of the documents themselves: the first lines of a few of them."""
    lines = [
        next((line for line in document.text.splitlines() if line.strip()), "") for document in documents
    ]
    titles = list(dict.fromkeys(line.strip(" #*=-\t")[:_DERIVED_CHARACTERS] for line in lines))
    titles = [title for title in titles if title]
    step = max(1, len(titles) // _DERIVED_QUESTIONS)
    return titles[::step][:_DERIVED_QUESTIONS]
