"""Bringing a store up to date from Python, where the command line does not reach."""

from __future__ import annotations

import pytest
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.errors import FingerprintMismatchError, InputError
from rag_embed.llamaindex.corpus import Corpus, SyncStep


def make_corpus(store: QdrantChunkStore, context_key: str | None = None) -> Corpus:
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=64, chunk_overlap=0), context_key=context_key
    )
    return Corpus(store, embed_model=ContextualEmbedding(), node_parser=parser)


def page(number: int, text: str) -> Document:
    return Document(text=text, id_=f"page {number}", metadata={"file": "book"})


def test_pages_of_one_context_are_embedded_together() -> None:
    with QdrantChunkStore("pages", location=":memory:") as store:
        corpus = make_corpus(store, context_key="file")
        pages = [page(1, "The café is old."), page(2, "Its owner is young.")]
        assert corpus.sync(pages).added == ("page 1", "page 2")
        assert corpus.sync(pages).unchanged == ("page 1", "page 2")
        # Page 1 is read in the light of page 2, so its vector is another one too.
        report = corpus.sync([pages[0], page(2, "Its owner is old.")])
        assert report.changed == ("page 1", "page 2")
        assert store.count() == 2


def test_metadata_that_is_embedded_counts_and_blank_documents_do_not() -> None:
    with QdrantChunkStore("metadata", location=":memory:") as store:
        corpus = make_corpus(store)
        steps: list[SyncStep] = []
        report = corpus.sync([page(1, "Text."), page(2, " \n")], progress=steps.append)
        assert (report.chunks, report.embedded) == (1, 1)
        assert [(step.document_id, step.characters) for step in steps] == [("page 1", 5), ("page 2", 2)]
        titled = Document(text="Text.", id_="page 1", metadata={"file": "book", "title": "Boats"})
        report = corpus.sync([titled])
        assert (report.changed, report.embedded) == (("page 1",), 1)
        assert corpus.sync([page(1, "")]).changed == ("page 1",)
        assert store.count() == 0


def test_doubled_ids_and_foreign_vectors_are_refused_before_anything_is_written() -> None:
    with QdrantChunkStore("refused", location=":memory:") as store:
        corpus = make_corpus(store)
        with pytest.raises(InputError, match=r"'page 1'; expected one id per document"):
            corpus.sync([page(1, "One."), page(1, "Two.")])
        assert store.info() is None
        corpus.sync([page(1, "One.")])
        other = Corpus(store, embed_model=ContextualEmbedding(strategy="isolated"))
        with pytest.raises(FingerprintMismatchError, match=r"/blend/.*/isolated/"):
            other.sync([page(2, "Two.")])
        assert store.count() == 1
