"""Sets: two layouts, samples, other chunks, folders with written queries, proxy queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter, TokenTextSplitter
from llama_index.core.schema import Document

from corpora.folders import sets_folder
from rag_embed.errors import InputError
from rag_embed.evaluation import (
    EvalDocument,
    GoldSpan,
    documents_as_set,
    make_proxy_queries,
    read_queries,
    read_set,
    rechunk_set,
    sample_set,
)
from rag_embed.evaluation.chunking import map_golds
from rag_embed.evaluation.lexical import split_words
from rag_embed.evaluation.proxies import NAMED, PLAIN, take_out
from rag_embed.spans import CharSpan
from tests.evalsets import PROSE, make_documents, make_set, prose_set, write_beir, write_chunked, write_lines

SPLITTER = SentenceSplitter(chunk_size=64, chunk_overlap=0)


def spans_of(text_length: int):
    places = st.integers(0, text_length)
    return st.tuples(places, places).map(sorted).filter(lambda p: p[0] < p[1]).map(lambda p: CharSpan(*p))


def test_the_chunked_layout_reads_back(tmp_path):
    evalset = make_set()
    found = read_set(write_chunked(tmp_path / "cities", evalset))
    assert found == replace(
        evalset,
        queries=dict(sorted(evalset.queries.items())),
        golds=dict(sorted(evalset.golds.items())),
    )
    assert list(found.queries) == sorted(evalset.queries)


def test_beir_judges_documents(tmp_path):
    found = read_set(write_beir(tmp_path / "cities", make_set(3)))
    assert found.unit == "document"
    assert found.golds["bern-2"] == {"d-bern": 1}
    assert [doc.chunks for doc in found.documents] == [[doc.text] for doc in make_documents(3)]
    cut = rechunk_set(found, SentenceSplitter(chunk_size=24, chunk_overlap=0))
    assert len(cut.chunk_ids) > 3
    assert cut.golds == found.golds
    assert set(cut.answer_ids) == {"d-berlin", "d-bern", "d-oslo"}


def test_beir_takes_the_only_split_and_asks_if_there_are_several(tmp_path):
    folder = write_beir(tmp_path / "cities", make_set(2), split="dev")
    assert len(read_set(folder).queries) == 4
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nbern-0\td-bern\t1\n")
    assert list(read_set(folder, split="train").queries) == ["bern-0"]
    with pytest.raises(InputError, match=r"has the splits \['dev', 'train'\]; expected 'test', or a split"):
        read_set(folder)


def test_wrong_files_are_named_with_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*corpus.jsonl; expected a set in BEIR layout"):
        read_set(tmp_path)
    folder = write_chunked(tmp_path / "cities", make_set(2))
    with (folder / "qrels.tsv").open("a") as file:
        file.write("bern-0\td-bern\t7\t1\n")
    with pytest.raises(
        InputError, match=r"line 6 of .*qrels.tsv has '7' in 'chunk_index'; expected a whole number"
    ):
        read_set(folder)
    (folder / "qrels.tsv").write_text("a\tb\tc\td\nbern-0 d-bern\n")
    with pytest.raises(InputError, match=r"line 2 of .*qrels.tsv has 1 columns; expected 4"):
        read_set(folder)
    write_lines(folder / "corpus.jsonl", [{"id": 1}])
    with pytest.raises(InputError, match=r"have the keys \['id'\]; expected _id, title, text"):
        read_set(folder)


def test_inside_the_right_document_only_its_chunks_compete():
    evalset = make_set(3)
    competing = evalset.competing("document")
    homes = [chunk.split("#")[0] for chunk in evalset.chunk_ids]
    for row, query in enumerate(evalset.queries):
        assert [homes[i] for i in competing[row].nonzero()[0]] == [f"d-{query[:-2]}"] * 3
    assert evalset.competing().all()
    assert not replace(evalset, is_within_document=True).competing().all()


def test_a_sample_is_the_same_every_time_and_says_what_is_missing():
    evalset = make_set()
    sample = sample_set(evalset, documents=4, queries=3)
    assert sample == sample_set(evalset, documents=4, queries=3)
    homes = {doc.doc_id for doc in sample.documents}
    assert len(homes) == 4 and len(sample.queries) == 3
    assert all(sample.home_documents(query) <= homes for query in sample.queries)
    assert "4 of 8 documents were drawn" in sample.warnings[0]
    assert sample_set(evalset, documents=99) == evalset


@given(st.lists(spans_of(30), min_size=1, max_size=6, unique=True).map(sorted), spans_of(30))
def test_answers_move_to_the_chunks_that_hold_half_of_them(spans, answer):
    document = EvalDocument("d", "", "x" * 30, tuple(spans))
    wanted = set(range(answer.start, answer.end))
    shared = [len(wanted & set(range(span.start, span.end))) for span in spans]
    halves = {
        f"d#{i}"
        for i, (span, count) in enumerate(zip(spans, shared, strict=True))
        if count / len(wanted) >= 0.5 or count / (span.end - span.start) >= 0.5
    }
    found = map_golds([document], {"q": (GoldSpan("d", answer, 2),)})
    if not any(shared):
        assert found == {}
    elif halves:
        assert found == {"q": dict.fromkeys(halves, 2)}
    else:
        assert found == {"q": {f"d#{shared.index(max(shared))}": 2}}


@pytest.mark.parametrize("name", ["chroma_chunking", "covidqa", "cuad_small"])
def test_answers_as_characters_give_the_published_chunk_judgements(name):
    folder = sets_folder() / name
    if not (folder / "corpus.jsonl").is_file():
        pytest.skip(f"{name} is not in $RAG_EMBED_EVAL nor in ../shared/eval")
    evalset = read_set(folder)
    found = map_golds(evalset.documents, evalset.gold_spans)
    assert len(found) >= 400
    assert found == {query: evalset.golds[query] for query in found}


def test_cutting_at_the_same_places_keeps_all_answers():
    evalset = make_set()
    assert rechunk_set(evalset, TokenTextSplitter(chunk_size=1000, separator="\n\n")).golds.keys() == (
        evalset.golds.keys()
    )
    cut = rechunk_set(evalset, SentenceSplitter(chunk_size=24, chunk_overlap=0))
    texts = dict(zip(cut.chunk_ids, cut.chunk_texts, strict=True))
    old = dict(zip(evalset.chunk_ids, evalset.chunk_texts, strict=True))
    for query, golds in cut.golds.items():
        (before,) = evalset.golds[query]
        assert all(texts[gold] in old[before] or old[before] in texts[gold] for gold in golds)


def test_pages_of_a_file_are_one_document_titled_by_its_path():
    pages = [
        Document(text=text, id_=f"p{i}", metadata={"file_path": "docs/a.pdf"})
        for i, text in enumerate(["First page here.", "Second page here."])
    ]
    evalset = documents_as_set([*pages, Document(text="  ", id_="blank")], name="docs", splitter=SPLITTER)
    (document,) = evalset.documents
    assert document.text == "First page here.\n\nSecond page here."
    assert (document.title_key, document.title) == ("file_path", "docs/a.pdf")
    with pytest.raises(InputError, match="1 documents of 'docs' hold no text"):
        documents_as_set([Document(text=" ")], name="docs", splitter=SPLITTER)


def test_written_queries_find_their_answers_wherever_they_stand(tmp_path):
    evalset = replace(make_set(2), queries={}, golds={})
    path = tmp_path / "queries.jsonl"
    text = evalset.documents[0].text
    rows = [
        {"query": "When is the market?", "document": "d-berlin", "answer": "opens on\n monday"},
        {"query": "When is the market?", "document": "d-bern", "answer": "opens on monday"},
        {"query": "Who built it?", "document": "d-berlin", "start": text.index("people"), "end": len(text)},
    ]
    write_lines(path, rows)
    found = read_queries(path, evalset)
    assert found.golds == {"q1": {"d-berlin#1": 1, "d-bern#1": 1}, "q2": {"d-berlin#1": 1, "d-berlin#2": 1}}
    write_lines(path, [{"query": "?", "document": "d-berlin", "answer": "no such words"}])
    with pytest.raises(
        InputError, match=r"line 1 of .*queries.jsonl has 'no such words' in 'answer'; expected words"
    ):
        read_queries(path, evalset)
    write_lines(path, [{"query": "?", "document": "elsewhere", "answer": "x"}])
    with pytest.raises(InputError, match="has 'elsewhere' in 'document'; expected one of"):
        read_queries(path, evalset)


@given(
    st.text(alphabet="abc ", min_size=1, max_size=40).flatmap(
        lambda text: st.tuples(
            st.just(text),
            st.lists(st.integers(0, len(text)), min_size=2, max_size=8).map(sorted),
            st.lists(spans_of(len(text)), max_size=4),
        )
    )
)
def test_taking_out_removes_these_characters_and_no_others(example):
    text, cuts, chunks = example
    removed = [CharSpan(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    kept = [not any(span.start <= i < span.end for span in removed) for i in range(len(text))]
    document = take_out(EvalDocument("d", "", text, tuple(chunks)), removed)
    assert document.text == "".join(c for c, keep in zip(text, kept, strict=True) if keep)
    assert document.chunks == [
        "".join(text[i] for i in range(chunk.start, chunk.end) if kept[i]) for chunk in chunks
    ]


def test_proxy_queries_are_sentences_that_their_document_no_longer_holds():
    evalset = prose_set()
    proxies = make_proxy_queries(evalset, 6)
    assert proxies == make_proxy_queries(evalset, 6)
    assert len(proxies.queries) == 6 and sorted(set(proxies.kinds.values())) == [NAMED, PLAIN]
    before = {doc.doc_id: doc for doc in evalset.documents}
    after = {doc.doc_id: doc for doc in proxies.documents}
    texts = dict(zip(proxies.chunk_ids, proxies.chunk_texts, strict=True))
    for query_id, query in proxies.queries.items():
        (gold,) = proxies.golds[query_id]
        doc_id, index = gold.split("#")
        name, _, sentence = query.rpartition(": ")
        assert sentence in " ".join(before[doc_id].text.split())
        assert sentence not in " ".join(after[doc_id].text.split())
        assert sentence in " ".join(before[doc_id].chunks[int(index)].split())
        assert bool(name) == (proxies.kinds[query_id] == NAMED)
        others = [set(split_words(doc.text)) for doc in evalset.documents if doc.doc_id != doc_id]
        for word in name.split():
            assert word in split_words(before[doc_id].text)
            assert word not in split_words(texts[gold])
            assert not all(word in other for other in others)
    assert proxies.warnings[-1].startswith("The 6 queries are PROXIES")


def test_long_documents_do_not_ask_all_the_questions():
    long = Document(text=" ".join(part.format(i) for i in range(20) for part in PROSE), id_="long")
    short = Document(text=PROSE[0].format("tower"), id_="short")
    evalset = documents_as_set(
        [long, short], name="prose", splitter=SentenceSplitter(chunk_size=48, chunk_overlap=0)
    )
    proxies = make_proxy_queries(evalset, 4)
    homes = [proxies.home_documents(query).pop() for query in proxies.queries]
    assert sorted(set(homes)) == ["long", "short"] and len(homes) == 4


def test_a_corpus_without_prose_is_refused():
    evalset = documents_as_set([Document(text="1 2 3", id_="d")], name="numbers", splitter=SPLITTER)
    with pytest.raises(InputError, match="no chunk of 1 documents has a sentence of 5 to 40 words"):
        make_proxy_queries(evalset, 5)
