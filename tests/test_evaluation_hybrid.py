"""Arms with words and late interaction, what they cost, and how the command shows all of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

pytest.importorskip("typer")
pytest.importorskip("qdrant_edge")
from typer.testing import CliRunner

from rag_embed.cli.app import app
from rag_embed.evaluation import VectorCache, choose_arms, evaluate, make_arms
from rag_embed.evaluation.lexical import WordIndex
from rag_embed.evaluation.page import render_page
from rag_embed.evaluation.searching import Searcher
from rag_embed.evaluation.vectors import Vectors, embed_nodes
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.qdrant.lexical import LexicalForm
from rag_embed.stamp import tokens_of
from tests.evalsets import make_set, write_chunked

RECOMMENDED = "title + late + words"
RERANKED = f"{RECOMMENDED} + late interaction"


@pytest.fixture
def model(tiny_folder):
    return ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu")


@pytest.fixture
def evaluation(model):
    arms = make_arms(model, has_titles=True, with_rerank=True)
    arms = choose_arms(
        arms, ["bm25", "title + isolated", "isolated + words", RECOMMENDED, RERANKED, "blend 0.6"]
    )
    return evaluate(make_set(), arms, model=model, with_costs=True, with_weights=True)


def test_words_stand_beside_every_reading_and_late_interaction_behind_context(model):
    names = [arm.name for arm in make_arms(model, has_titles=True)]
    for reading in ("isolated", "late", "blend 0.6"):
        assert f"{reading} + words" in names and f"title + {reading} + words" in names
    assert not [name for name in names if "late interaction" in name]
    reranked = make_arms(model, has_titles=True, with_rerank=True)
    added = {arm.name for arm in reranked} - set(names)
    assert added == {
        f"{arm.name} + late interaction" for arm in reranked if arm.is_contextual and not arm.is_reranked
    }
    assert "isolated + words + late interaction" not in added, "isolated chunks keep no token vectors"
    assert sum(arm.is_default for arm in reranked) == 1


def test_with_an_adapter_words_stand_beside_what_was_read_with_it():
    names = [arm.name for arm in make_arms(ContextualEmbedding(), has_titles=False)]
    assert "adapter + words" in names and "adapter blend 0.6 + words" in names
    assert "late" in names and "late + words" not in names


def test_arms_are_as_dear_as_what_they_do(model):
    arms = {arm.name: arm for arm in make_arms(model, has_titles=True, with_rerank=True)}
    cheap_first = [
        "bm25",
        "title + bm25",
        "isolated",
        "title + isolated",
        "isolated + words",
        "late",
        "late + words",
        RECOMMENDED,
        "blend 0.6",
        "late + late interaction",
    ]
    assert sorted(cheap_first, key=lambda name: arms[name].effort) == cheap_first


def test_a_hybrid_arm_ranks_as_the_store_does(model, tmp_path):
    """The measured order is that of a folder asked in mode hybrid; one query by itself finds the same."""
    from rag_embed.qdrant import QdrantChunkStore

    evalset = make_set()
    (arm,) = (arm for arm in make_arms(model, has_titles=True) if arm.name == RECOMMENDED)
    (reranked,) = (arm for arm in make_arms(model, has_titles=True, with_rerank=True) if arm.name == RERANKED)
    searcher = Searcher(evalset, model, Vectors(evalset.documents, cache=VectorCache(None)))
    made = arm.make_model(model)
    nodes = [node for doc in evalset.documents for node in embed_nodes(made, doc, with_title=True)]
    ids = [node.node_id for node in nodes]
    with QdrantChunkStore("cities", path=tmp_path / "db", lexical=True, tokens="float16") as store:
        store.add(nodes)
        search, search_reranked = searcher.prepare(arm), searcher.prepare(reranked)
        for row, query in enumerate(searcher.queries):
            answer = store.query(
                VectorStoreQuery(
                    query_embedding=made.get_query_embedding(query),
                    query_str=query,
                    similarity_top_k=len(nodes),
                    mode=VectorStoreQueryMode.HYBRID,
                )
            )
            ranked = searcher.rank(arm, "corpus")
            places = {
                ids[chunk]: score for chunk, score in zip(ranked.order[row], ranked.scores[row], strict=True)
            }
            assert set(answer.ids) == set(places)
            assert [places[id_] for id_ in answer.ids] == pytest.approx(answer.similarities, abs=1e-4)
            one = search(query)
            assert one.scores[0] == pytest.approx(ranked.scores[row], abs=1e-5)
            again = search_reranked(query)
            assert again.scores[0] == pytest.approx(searcher.rank(reranked, "corpus").scores[row], abs=1e-5)


def test_words_of_one_query_are_those_of_many():
    texts = ["zoo zoo ferry", "ferry dock", "kiel", ""]
    index = WordIndex(texts)
    queries = ["zoo ferry", "nothing here", "kiel"]
    assert np.array_equal(np.stack([index.score(query) for query in queries]), index.score_all(queries))
    assert index.term_count == sum(len(LexicalForm().to_document(text).indices) for text in texts) == 5


def test_bytes_are_those_of_what_a_store_keeps(model, evaluation):
    evalset = make_set()
    (arm,) = (arm for arm in make_arms(model, has_titles=True) if arm.name == RECOMMENDED)
    nodes = [n for d in evalset.documents for n in embed_nodes(arm.make_model(model), d, with_title=True)]
    words = [
        LexicalForm().to_document(n.get_content(metadata_mode=MetadataMode.EMBED)).indices for n in nodes
    ]
    dense, lexical = 4 * 32, 8 * sum(map(len, words)) / len(nodes)
    tokens = sum(tokens_of(node).size for node in nodes) / len(nodes) / 2
    found = {name: cost.bytes_per_chunk for name, cost in evaluation.costs.by_arm.items()}
    assert found["isolated"] == found["title + isolated"] == found["blend 0.6"] == dense
    assert found[RECOMMENDED] == pytest.approx(dense + lexical, abs=0.06)
    assert found[RERANKED] == pytest.approx(dense + lexical + tokens, abs=0.06)
    assert 0 < found["bm25"] < found["isolated"]


def test_times_are_measured_and_grow_with_what_is_done(evaluation):
    costs = evaluation.costs.by_arm
    assert all(cost.query_ms > 0 and cost.ingestion_s > 0 for cost in costs.values())
    assert costs["bm25"].query_ms < costs[RERANKED].query_ms
    assert costs["bm25"].ingestion_s < costs["blend 0.6"].ingestion_s
    note = evaluation.costs.note
    assert (
        "12 questions one by one" in note and "24 chunks of 8 documents" in note and "without writing" in note
    )


def test_the_json_holds_costs_weights_and_what_each_arm_does(evaluation):
    found = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    by_name = {arm["arm"]: arm for arm in found["arms"]}
    assert set(by_name[RECOMMENDED]["cost"]) == {"bytes_per_chunk", "query_ms", "ingestion_s"}
    assert by_name["isolated + words"]["advice"] == "search by words and meaning together, without context"
    weights = found["fitted_weights"]
    assert weights["arm"] == RERANKED and weights["default"] == {"words": 0.5, "late_interaction": 0.25}
    assert len(weights["per_query"]) == 16 and len(weights["gain"]) == 3


def test_the_verdict_may_be_about_words_or_the_reranker(evaluation):
    """Queries name the city that only one chunk names: words find it, random vectors do not."""
    verdict = evaluation.verdict
    assert verdict.sentence.startswith("On these documents: search by words")
    assert evaluation.result(verdict.arm).arm.method in {"bm25", "hybrid"}
    assert verdict.decision in {"use", "simpler"}


def test_the_page_shows_costs_and_weights(evaluation):
    text = render_page(evaluation)
    for expected in ("bytes per chunk", "ms per query", "ingestion, s", "Weights fitted on these queries"):
        assert expected in text
    assert evaluation.fitted.sentence.replace("'", "&#39;") in text
    assert "best on all queries, on which it is not measured" in text
    assert f"{evaluation.costs.by_arm[RERANKED].bytes_per_chunk:,.0f}</td>" in text
    assert text.count('id="h-weights"') == 1 and "How should cities be searched?" in text


def run(tmp_path, tiny_folder, *arguments):
    folder = write_chunked(tmp_path / "cities", make_set())
    words = ["evaluate", "--model", tiny_folder, "--cache", tmp_path / "cache", "--set", folder, *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_shows_quality_beside_costs_and_fits_weights(tmp_path, tiny_folder):
    page = tmp_path / "report.html"
    names = f"bm25, {RECOMMENDED}, {RERANKED}"
    words = ("--arms", names, "--rerank", "--fit-weights")
    shown = run(tmp_path, tiny_folder, *words, "--html", page)
    assert shown.exit_code == 0, shown.stderr
    header = next(line for line in shown.stdout.splitlines() if "nDCG@10" in line)
    assert all(name in header for name in ("R@10", "over isolated", "bytes/chunk", "ms/query", "ingestion s"))
    flat = " ".join(shown.stdout.split())
    assert "weights" in flat and "on queries that had no part in choosing" in flat
    assert "On these documents: search by words" in flat and "Weights fitted" in page.read_text(
        encoding="utf-8"
    )
    found = json.loads(run(tmp_path, tiny_folder, *words, "--json").stdout)
    assert [arm["arm"] for arm in found["arms"]] == ["bm25", "isolated", RECOMMENDED, RERANKED]
    assert found["fitted_weights"]["arm"] == RERANKED
    without = json.loads(run(tmp_path, tiny_folder, "--arms", "bm25, late", "--json").stdout)
    assert without["fitted_weights"] is None and without["arms"][0]["cost"]["query_ms"] > 0


def test_weights_without_anything_to_weigh_are_refused(tmp_path, tiny_folder):
    failed = run(tmp_path, tiny_folder, "--arms", "bm25, late", "--fit-weights")
    assert failed.exit_code == 1 and "no weights can be fitted" in " ".join(failed.stderr.split())
