"""Vectors, arms and whole evaluations: what a user would get, computed once, resumed after an interrupt."""

from __future__ import annotations

import html
import json
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from llama_index.core.node_parser import TextSplitter
from llama_index.core.schema import Document, NodeWithScore, QueryBundle

from rag_embed.encoder import Encoder
from rag_embed.errors import InputError, MissingExtraError
from rag_embed.evaluation import VectorCache, choose_arms, evaluate, make_arms, make_proxy_queries
from rag_embed.evaluation.cache import make_key
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.page import render_page
from rag_embed.evaluation.ranking import rank, rerank
from rag_embed.evaluation.vectors import Vectors, embed_nodes, with_options
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.llamaindex.rerank import DENSE_WEIGHT
from tests import reference
from tests.evalsets import make_documents, make_set, prose_set
from tests.payloads import PAYLOADS


class Paragraphs(TextSplitter):
    """Cuts where the sets of the tests have their borders."""

    def split_text(self, text: str) -> list[str]:
        return text.split("\n\n")


@pytest.fixture
def model(tiny_folder):
    return ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu")


@pytest.mark.parametrize("with_title", [False, True])
@pytest.mark.parametrize("strategy", ["isolated", "late", "blend"])
def test_an_arm_is_what_an_index_would_hold(model, strategy, with_title):
    documents = make_documents(3)
    arm = with_options(model, strategy=strategy, alpha=0.3)
    found = Vectors(documents, cache=VectorCache(None)).chunks(arm, with_title=with_title)
    expected = []
    for doc in documents:
        nodes = LateChunkingNodeParser(node_parser=Paragraphs(), embed_model=arm).get_nodes_from_documents(
            [Document(text=doc.text, metadata={"title": doc.title} if with_title else {})]
        )
        assert [node.text for node in nodes] == doc.chunks
        expected += [node.embedding for node in nodes]
    assert torch.equal(found, torch.tensor(expected))


def test_another_blend_costs_no_forward(model, tmp_path):
    documents = make_documents(2)
    Vectors(documents, cache=VectorCache(tmp_path)).chunks(
        with_options(model, strategy="blend"), with_title=True
    )
    before = model.encoder.forward_count
    again = Vectors(documents, cache=VectorCache(tmp_path))
    late = again.chunks(with_options(model, strategy="late"), with_title=True)
    # The title stands in the head of the windows; the half that stands for the chunk alone goes without.
    isolated = again.chunks(with_options(model, strategy="isolated"), with_title=False)
    mixed = again.chunks(with_options(model, strategy="blend", alpha=0.25), with_title=True)
    assert model.encoder.forward_count == before
    sizes = [len(document.spans) for document in documents]
    halves = zip(late.split(sizes), isolated.split(sizes), documents, strict=True)
    expected = [
        vector
        for a, b, document in halves
        for vector in reference.blend(
            a.tolist(), b.tolist(), 0.25, [(span.start, span.end) for span in document.spans]
        )
    ]
    assert torch.allclose(mixed, torch.tensor(expected), atol=1e-6)


def test_nothing_changed_is_taken_for_unchanged(model, tmp_path):
    """Another text, border, title or window makes another vector, not the kept one."""
    document = make_documents(1)[0]
    cache = VectorCache(tmp_path)
    late = with_options(model, strategy="late")
    first = Vectors([document], cache=cache).chunks(late, with_title=True)
    short = with_options(late, window_tokens=20, overlap_tokens=2)
    for other, arm in (
        (replace(document, text=document.text.replace("stone", "straw")), late),
        (replace(document, title="Another"), late),
        (replace(document, spans=document.spans[1:]), late),
        (document, short),
    ):
        found = Vectors([other], cache=cache).chunks(arm, with_title=True)
        fresh = Vectors([other], cache=VectorCache(None)).chunks(arm, with_title=True)
        assert torch.equal(found, fresh)
        assert found.shape != first.shape or not torch.equal(found, first)


def test_the_cache_keeps_all_of_a_batch_or_nothing(tmp_path):
    cache = VectorCache(tmp_path)
    keys = [make_key("k", number) for number in range(1200)]
    matrices = {key: torch.full((2, 3), float(number)) for number, key in enumerate(keys)}
    cache.put(matrices)
    found = VectorCache(tmp_path).get(keys)
    assert all(torch.equal(found[key], matrices[key]) for key in keys)
    with pytest.raises(AttributeError):
        cache.put({make_key("new"): torch.ones(1, 3), make_key("broken"): None})
    assert cache.get([make_key("new")]) == {}
    assert VectorCache(tmp_path / "none").get(keys) == {}


@pytest.mark.parametrize("fails_at", [1, 5, 13, 18])
def test_killed_in_the_middle_it_goes_on_to_the_same_result(model, tmp_path, monkeypatch, fails_at):
    evalset = make_set(3)
    arms = make_arms(model, has_titles=True, with_rerank=True)
    arms = choose_arms(arms, ["bm25", "title + blend 0.6", "title + blend 0.6 + late interaction"])
    whole = evaluate(evalset, arms, model=model)
    forward, calls = Encoder._forward, []
    monkeypatch.setattr("rag_embed.evaluation.vectors._BATCH_CHUNKS", 6)
    monkeypatch.setattr("rag_embed.evaluation.vectors._BATCH_QUERIES", 2)

    def fail(self, batch, *options):
        calls.append(len(batch))
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return forward(self, batch, *options)

    monkeypatch.setattr(Encoder, "_forward", fail)
    with pytest.raises(KeyboardInterrupt):
        evaluate(evalset, arms, model=model, cache=VectorCache(tmp_path))
    resumed = evaluate(evalset, arms, model=model, cache=VectorCache(tmp_path))
    interrupted_total = len(calls)
    assert resumed.as_json() == whole.as_json()
    calls.clear()
    calls.extend([0] * 1000)  # no call may fail any more
    again = evaluate(evalset, arms, model=model, cache=VectorCache(tmp_path))
    assert again.as_json() == whole.as_json()
    # Only token vectors are made anew: they are too large to be kept.
    assert len(calls) <= 1000 + len(evalset.documents) + len(evalset.queries)
    calls.clear()
    calls.extend([0] * 1000)
    evaluate(evalset, arms[:-1], model=model, cache=VectorCache(tmp_path))
    assert arms[-1].is_reranked and len(calls) == 1000
    forwards_before = model.encoder.forward_count
    evaluate(evalset, arms, model=model)
    uninterrupted = model.encoder.forward_count - forwards_before
    # Two documents or two queries are a batch: no more than that is computed twice, beside token vectors.
    assert interrupted_total <= uninterrupted + 4 + len(evalset.documents) + len(evalset.queries)


def test_reranking_is_what_the_postprocessor_does(model):
    """Late interaction in the evaluation is `ListwiseRerank` behind the same first stage."""
    evalset = make_set(4)
    queries = list(evalset.queries.values())
    late = with_options(model, strategy="late")
    vectors = Vectors(evalset.documents, cache=VectorCache(None))
    chunks, asked = vectors.chunks(late, with_title=True), vectors.queries(late, queries)
    first = rank((asked @ chunks.T).numpy(), evalset.competing())
    found = rerank(
        first, vectors.query_tokens(late, queries), vectors.tokens(late, with_title=True), weight=DENSE_WEIGHT
    )
    nodes = [node for doc in evalset.documents for node in embed_nodes(late, doc, with_title=True)]
    postprocessor = ListwiseRerank(embed_model=late, top_n=100, method="late_interaction")
    for row, query in enumerate(queries):
        candidates = [
            NodeWithScore(node=nodes[i], score=float(score))
            for i, score in zip(first.order[row], first.scores[row], strict=True)
        ]
        result = postprocessor.postprocess_nodes(candidates, query_bundle=QueryBundle(query))
        assert [hit.node.node_id for hit in result] == [nodes[i].node_id for i in found.order[row]]
        assert np.allclose([hit.score for hit in result], found.scores[row], atol=1e-6)


def test_arms_are_all_there_and_the_default_is_marked(model):
    names = {arm.name: arm for arm in make_arms(model, has_titles=True, alphas=(0.6, 0.2))}
    plain = ["isolated", "late", "blend 0.6", "blend 0.2"]
    assert set(names) >= {"bm25", "title + bm25", *plain, *(f"title + {name}" for name in plain)}
    assert [arm.with_title for arm in names.values() if arm.is_default] == [True]
    assert [names[name].passes for name in ("bm25", "isolated", "late", "blend 0.2")] == [0, 1, 1, 2]
    assert not make_arms(model, has_titles=False)[-1].with_title
    arms = make_arms(model, has_titles=True)
    contextual = [arm for arm in arms if arm.is_contextual]
    assert len(make_arms(model, has_titles=True, with_rerank=True)) == len(arms) + len(contextual)


def test_a_model_of_its_own_options_is_an_arm_of_its_own(model):
    own = with_options(model, strategy="blend", alpha=0.77)
    (default,) = [arm for arm in make_arms(own, has_titles=False) if arm.is_default]
    assert default.make_model(own).fingerprint() == own.fingerprint()


def test_arms_are_chosen_by_name_and_isolated_stays(model):
    arms = make_arms(model, has_titles=True)
    assert [arm.name for arm in choose_arms(arms, ["Title+Late", " bm25"])] == [
        "bm25",
        "isolated",
        "title + late",
    ]
    with pytest.raises(InputError, match="there is no arm 'lat'; expected some of: bm25, title"):
        choose_arms(arms, ["lat"])


@pytest.fixture(scope="module")
def evaluation(tiny_folder):
    model = ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu")
    evalset = make_set()
    evalset = replace(
        evalset, queries={q: f"<script>alert(1)</script> {text}" for q, text in evalset.queries.items()}
    )
    return evaluate(
        evalset, make_arms(model, has_titles=True), model=model, settings={"command": "rag-embed evaluate"}
    )


def test_the_json_holds_what_the_means_are_made_of(evaluation):
    found = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    assert (found["documents"], found["chunks"], found["queries"]) == (8, 24, 16)
    by_name = {arm["arm"]: arm for arm in found["arms"]}
    base = by_name["isolated"]["per_query"]
    for arm in found["arms"]:
        values = arm["per_query"]
        assert arm["slices"]["corpus"]["nDCG@10"] == pytest.approx(np.mean(list(values.values())), abs=1e-6)
        if arm["method"] != "hybrid":  # where scores are rescaled by the candidates, fewer rivals may harm
            assert arm["slices"]["document"]["nDCG@10"] >= arm["slices"]["corpus"]["nDCG@10"] - 1e-9
        if arm["arm"] != "isolated":
            difference = arm["differences"]["isolated"]["corpus"]
            expected = [values[query] - base[query] for query in base]
            assert difference["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
            assert difference["low"] <= difference["mean"] <= difference["high"]
            assert difference["wins"] == sum(value > 0 for value in expected)
    assert found["verdict"]["sentence"] and found["settings"]["model"] == "tiny_bert"


def test_words_that_only_one_chunk_has_are_found_by_bm25(evaluation):
    """Of the queries "How many gates has berlin?", only the right chunk holds city and gates."""
    scores = evaluation.result("bm25").scores["corpus"]["RR@10"]
    asked = [index for index, query in enumerate(evaluation.query_ids) if query.endswith("-0")]
    assert (scores[asked] == 1).all()


class Page(HTMLParser):
    """Collects what a page consists of, and checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.labels = [], [], [], [], []
        self.attributes = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"src", "href", "xlink:href", "action", "poster", "data"}:
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "aria-labelledby":
                self.labels.append(value)
        if tag not in {"meta", "link", "br", "img", "input"} | {"line", "circle", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in {"line", "circle", "path"}:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(evaluation):
    text = render_page(evaluation)
    page = Page(text)
    assert page.links == [] and "url(" not in text and "@import" not in text and "http" not in text
    assert "script" not in page.tags and "&lt;script&gt;" in text
    assert page.tags.count("svg") == 3
    assert len(page.ids) == len(set(page.ids)) and set(page.labels) <= set(page.ids)
    for result in evaluation.results:
        assert text.count(f'<th scope="row">{result.arm.name}') >= 1
    assert evaluation.verdict.sentence.split(":")[0] in text


def test_markup_in_texts_titles_questions_and_names_does_nothing_but_show(model):
    """A page of harmless texts and one of hostile texts in their places have the same parts."""
    pages = []
    for payloads in (["harmless"] * len(PAYLOADS), PAYLOADS):
        everything = " ".join(payloads)
        evalset = make_set()
        documents = [
            replace(doc, text=f"{doc.text}\n\n{everything}", title=f"{doc.title} {everything}")
            for doc in evalset.documents
        ]
        hostile = replace(
            evalset,
            name=everything,
            documents=documents,
            queries={query: f"{text} {everything}" for query, text in evalset.queries.items()},
        )
        arms = make_arms(model, has_titles=True)
        arms[-1] = replace(arms[-1], name=f"{arms[-1].name} {everything}")
        pages.append(render_page(evaluate(hostile, arms, model=model, settings={"command": everything})))
    harmless, hostile = map(Page, pages)
    # How many marks and examples there are hangs on the scores, which hang on the texts.
    drawn = {
        "path",
        "circle",
        "line",
        "blockquote",
        "article",
        "div",
        "p",
        "h3",
        "h4",
        "cite",
        "span",
        "text",
    }
    assert Counter(tag for tag in hostile.tags if tag not in drawn) == Counter(
        tag for tag in harmless.tags if tag not in drawn
    )
    assert hostile.links == []
    assert not [name for name in hostile.attributes if name.startswith("on") or name == "style"]
    shown = html.unescape(pages[1])
    assert all(payload in shown for payload in PAYLOADS)


def test_a_page_of_proxies_shows_both_kinds_and_says_so(model):
    proxies = make_proxy_queries(prose_set(), 7)
    found = evaluate(proxies, make_arms(model, has_titles=False), model=model)
    text = render_page(found)
    assert "PROXIES" in text and "By the kind of query" in text and "No titles" in text
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        (
            "ir_measures",
            lambda found: measure(rank(np.ones((1, 1)), np.ones((1, 1), bool)), {"q": {"c": 1}}, "c"),
        ),
        ("jinja2", render_page),
    ],
)
def test_a_missing_package_is_named_with_its_extra(evaluation, monkeypatch, package, use):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=r"which is not installed; run pip install 'rag-embed\[eval\]'"
    ):
        use(evaluation)


def test_slices_without_rivals_are_left_out(model):
    evalset = replace(
        make_set(3), unit="document", golds={q: {f"d-{q[:-2]}": 1} for q in make_set(3).queries}
    )
    found = evaluate(evalset, make_arms(model, has_titles=True), model=model)
    assert set(found.sliced) == {"corpus"}
    assert any("that slice is left out" in warning for warning in found.warnings)
    assert render_page(found).count("<svg") == 2


def test_within_the_document_decides_where_queries_do_not_name_it(model):
    evalset = replace(make_set(3), is_within_document=True)
    found = evaluate(evalset, make_arms(model, has_titles=False), model=model)
    assert found.main_slice == "document"
    assert any("ranking inside it" in warning for warning in found.warnings)
