"""Bringing a store up to date from Python, where the command line does not reach."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.schema import BaseNode

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore, join_pages
from rag_embed.errors import EmptyTextError, FingerprintMismatchError, InputError
from rag_embed.llamaindex.corpus import Corpus, SyncStep


def make_corpus(store: QdrantChunkStore) -> Corpus:
    parser = LateChunkingNodeParser(chunk_size=64, chunk_overlap=0)
    return Corpus(store, embed_model=ContextualEmbedding(), node_parser=parser)


def page(number: int, text: str) -> Document:
    return Document(text=text, id_=f"page {number}", metadata={"file": "book"})


def test_pages_of_one_file_are_embedded_together() -> None:
    with QdrantChunkStore("pages", location=":memory:") as store:
        corpus = make_corpus(store)

        def joined(*pages: Document) -> list[Document]:
            return join_pages(pages, key="file")

        pages = [page(1, "The café is old."), page(2, "Its owner is young.")]
        assert corpus.sync(joined(*pages)).added == ("book",)
        assert corpus.sync(joined(*pages)).unchanged == ("book",)
        # Page 1 is read in the light of page 2, so its vector is another one too.
        assert corpus.sync(joined(pages[0], page(2, "Its owner is old."))).changed == ("book",)
        assert store.count() == 2


def test_a_parser_that_embeds_is_not_asked_to_in_every_run() -> None:
    model = ContextualEmbedding()
    parser = LateChunkingNodeParser(embed_model=model)
    with QdrantChunkStore("pages", location=":memory:") as store:
        corpus = Corpus(store, embed_model=model, node_parser=parser)
        corpus.sync([page(1, "The café is old.")])
        before = model.encoder.token_count
        assert corpus.sync([page(1, "The café is old.")]).unchanged == ("page 1",)
        assert model.encoder.token_count == before
    assert parser.embed_model is model


ODD_METADATA = {
    "tuple": ("a", 1),
    "set": {"b", "a", "c"},
    "frozen": frozenset({2, 1}),
    "date": date(2024, 5, 1),
    "nested": {"parts": ({"x", "y"}, [1.5, None])},
    "numbered": {1: "one"},
}


@pytest.mark.parametrize("name", ODD_METADATA)
def test_metadata_that_json_writes_otherwise_are_embedded_once(name: str) -> None:
    document = Document(text="The café is old.", id_="d", metadata={name: ODD_METADATA[name]})
    with QdrantChunkStore("odd", location=":memory:") as store:
        corpus = make_corpus(store)
        assert corpus.sync([document]).embedded == 1
        assert corpus.sync([document]).embedded == 0


def test_not_a_number_in_metadata_is_refused_or_embedded_once() -> None:
    document = Document(text="The café is old.", id_="d", metadata={"score": float("nan")})
    with QdrantChunkStore("nan", location=":memory:") as store:
        corpus = make_corpus(store)
        try:
            corpus.sync([document])
        except InputError:
            assert store.count() == 0
        else:
            assert corpus.sync([document]).embedded == 0


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


def sentences(count: int) -> list[Document]:
    return [
        Document(text=f"Shop number {number} opens at nine.", id_=f"d{number}") for number in range(count)
    ]


def test_short_documents_share_passes_and_have_the_vectors_that_each_gets_alone() -> None:
    model = ContextualEmbedding(strategy="late", dtype="float32", device="cpu")
    documents = sentences(40)
    with (
        QdrantChunkStore("together", location=":memory:") as together,
        QdrantChunkStore("apart", location=":memory:") as apart,
    ):
        before = model.context_encoder.forward_count
        Corpus(together, embed_model=model).sync(documents)
        assert model.context_encoder.forward_count - before <= 4
        for document in documents:
            Corpus(apart, embed_model=model).sync([document], keeps=lambda _: True)
        vectors = [
            {node.ref_doc_id: node.embedding for node in store.get_nodes()} for store in (together, apart)
        ]
    assert len(vectors[0]) == 40
    assert vectors[0] == vectors[1]


class Refusing(ContextualEmbedding):
    """Cannot embed one of the documents."""

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        if any("number 3 " in node.get_content() for node in nodes):
            raise EmptyTextError("nothing in it")
        return super().__call__(nodes, **kwargs)


def test_a_document_that_cannot_be_embedded_stops_none_of_its_neighbours() -> None:
    failures = []
    with QdrantChunkStore("docs", location=":memory:") as store:
        corpus = Corpus(store, embed_model=Refusing(strategy="late"))
        report = corpus.sync(sentences(6), on_failure=lambda id_, error: failures.append((id_, str(error))))
        assert failures == [("d3", "nothing in it")]
        assert report.failed == ("d3",)
        assert report.added == ("d0", "d1", "d2", "d4", "d5")
        assert report.embedded == report.chunks == store.count() == 5
        with pytest.raises(EmptyTextError):
            corpus.sync(sentences(6))
