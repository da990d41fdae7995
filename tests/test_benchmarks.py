"""The benchmarks run, count right, and render what they measured."""

import json
import random
import statistics
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from benchmarks import evalsets, render, report, seams
from benchmarks.bootstrap import mean_interval
from benchmarks.race import Race
from benchmarks.tables import TABLES
from benchmarks.work import encoder_flops, gemm_contestants, gemm_rates, log_passes
from rag_embed.spans import CharSpan
from rag_embed.windows import make_windows


def test_bootstrap_agrees_with_resampling_by_hand():
    values = np.random.default_rng(3).standard_normal(40)
    generator = random.Random(5)
    means = sorted(statistics.fmean(generator.choices(values.tolist(), k=len(values))) for _ in range(10_000))
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(means[250], abs=0.02)
    assert high == pytest.approx(means[9750], abs=0.02)


def test_bootstrap_is_the_same_every_time_and_exact_for_equal_values():
    assert mean_interval(np.arange(9.0)) == mean_interval(np.arange(9.0))
    assert mean_interval(np.full(7, 0.25), resamples=501) == (0.25, 0.25, 0.25)


def test_flops_are_those_that_torch_counts():
    config = BertConfig(
        hidden_size=48,
        num_attention_heads=4,
        intermediate_size=160,
        num_hidden_layers=3,
        vocab_size=50,
        attn_implementation="eager",
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    counted = 0
    for length in (5, 17):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(input_ids=torch.zeros(1, length, dtype=torch.long))
        counted += counter.get_total_flops()
    assert encoder_flops([5, 17], hidden=48, intermediate=160, layers=3) == counted


def test_pass_log_tells_padding_from_tokens():
    module = torch.nn.Identity()
    ids = torch.zeros(2, 4, dtype=torch.long)
    with log_passes(module) as log:
        module({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])})
    module({"input_ids": ids})
    assert log.lengths == [4, 2]
    assert log.padding_share == pytest.approx(0.25)


def test_race_lets_everybody_run_once_a_round_and_begins_with_another():
    turns = []
    race = Race.run({name: lambda name=name: turns.append(name) for name in "abc"}, rounds=3)
    assert "".join(turns) == "abcbcacab"
    assert all(len(seconds) == 3 for seconds in race.seconds.values())


def test_speed_up_compares_within_rounds():
    race = Race({"fast": [1.0, 2.0, 4.0], "slow": [2.0, 8.0, 12.0]})
    assert race.speed_up("fast", "slow") == (3.0, 2.0, 4.0)
    assert (race.median_s("fast"), race.min_s("slow")) == (2.0, 2.0)


def test_gemm_rates_count_every_product():
    contestants = gemm_contestants(1.0)
    race = Race({name: [0.5] for name in contestants})
    assert gemm_rates(race)["512x384x1536"] == 2 * 512 * 384 * 1536 / 0.5


@pytest.mark.parametrize("overlap", [0, 7, 20])
def test_every_window_rule_owns_each_token_once(overlap):
    for windows in (
        seams.believe_earlier(make_windows(131, capacity=40, overlap=overlap)),
        seams.fixed_step_windows(131, 40, overlap),
    ):
        owned = [token for w in windows for token in range(w.own_start, w.own_end)]
        assert owned == list(range(131))
        assert all(w.start <= w.own_start <= w.own_end <= w.end for w in windows)


def test_windows_read_together_have_the_states_of_a_stock_pass_each(tiny_encoder, tiny_folder):
    ids = np.random.default_rng(4).integers(5, 100, 50)
    readings = {
        seams.Reading(*cut) for cut in [(0, 50, 0), (3, 20, 0), (3, 20, 11), (20, 37, 5), (49, 50, 2)]
    }
    found = seams.read_all(tiny_encoder, ids, readings)
    assert found.keys() == readings
    stock = BertModel.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    for reading, states in found.items():
        text = [*tiny_encoder.prefix_ids, *ids[reading.start : reading.end], *tiny_encoder.suffix_ids]
        # The first token keeps its place: only what stands behind it is moved on.
        positions = [0, *range(reading.shift + 1, reading.shift + len(text))]
        with torch.inference_mode():
            expected = stock(input_ids=torch.tensor([text]), position_ids=torch.tensor([positions]))
        torch.testing.assert_close(states, expected.last_hidden_state[0, 1:-1], rtol=1e-4, atol=1e-4)


def test_seam_scores_are_those_of_looking_up_token_by_token(tiny_encoder):
    ids = np.random.default_rng(4).integers(5, 100, 60)
    layouts = [seams.Layout("window", 30, 8), seams.Layout("document", 30, 8)]
    scores = seams.score_passage(tiny_encoder, ids, layouts)
    assert len(scores) == 6
    whole = next(tiny_encoder.encode([ids]))[1:-1]
    for arm, windows in layouts[0].make_arms(60, 2).items():
        cosines = []
        for token in range(60):
            window = next(w for w in windows if w.own_start <= token < w.own_end)
            states = next(tiny_encoder.encode([ids[window.start : window.end]]))
            cosines.append(torch.cosine_similarity(states[1 + token - window.start], whole[token], dim=0))
        all_tokens, near_seams, _ = scores[layouts[0], arm]
        assert all_tokens == pytest.approx(float(np.mean(cosines)), abs=1e-5)
        assert near_seams < 0.999
        assert scores[layouts[1], arm] != pytest.approx(scores[layouts[0], arm], abs=1e-3)


@pytest.fixture
def tiny_sets(tmp_path, monkeypatch):
    folder = tmp_path / "eval" / "cuad_small"
    folder.mkdir(parents=True)
    text = "The lease ends in May. The rent is due on Monday."
    corpus = [
        {
            "doc_id": f"d{i}",
            "title": f"Contract {i}",
            "text": f"{text} Party {i}.",
            "chunks": [[0, 22], [23, 58]],
        }
        for i in range(6)
    ]
    queries = [{"query_id": f"q{i}", "text": f"When does the lease of party {i} end?"} for i in range(6)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    qrels = [f"q{i}\td{i}\t0\t1" for i in range(6)]
    (folder / "qrels.tsv").write_text("\n".join(["query_id\tdoc_id\tchunk_index\trelevance", *qrels]))
    monkeypatch.setenv("RAG_EMBED_EVAL", str(tmp_path / "eval"))
    return tmp_path


def test_a_sample_keeps_the_queries_it_can_answer(tiny_sets):
    sample = evalsets.load_set("cuad_small", documents=4)
    again = evalsets.load_set("cuad_small", documents=4)
    assert sample == again
    homes = {doc.doc_id for doc in sample.documents}
    assert len(homes) == 4
    assert {f"d{query[1:]}" for query in sample.queries} == homes
    assert sample.competing().all()
    assert len(evalsets.load_set("cuad_small", documents=None).documents) == 6


def test_only_chunks_of_the_right_document_compete(tiny_sets, monkeypatch):
    monkeypatch.setattr(evalsets, "_WITHIN_DOCUMENT", {"cuad_small"})
    evalset = evalsets.load_set("cuad_small", documents=None)
    assert evalset.competing().sum(axis=1).tolist() == [2] * 6
    assert not evalset.has_titles


def run_quick(script, folder, *words):
    script.main(["--quick", "--results", str(folder), *words])
    name = script.__name__.rpartition(".")[2]
    result = json.loads((folder / f"{name}.json").read_text())
    assert result["is_quick"]
    assert result["command"] == f"python -m benchmarks.{name} --quick"
    for source, make in TABLES.values():
        if source == name:
            assert "|" in make(result)
    return result["results"]


def test_hybrid_runs_and_keeps_vectors(tiny_sets, monkeypatch):
    from benchmarks import hybrid

    monkeypatch.setattr(hybrid, "CACHE", tiny_sets)
    first = run_quick(hybrid, tiny_sets, "--sets", "cuad_small")
    vectors = tiny_sets / "vectors" / "vectors.sqlite"
    kept = vectors.read_bytes()
    assert run_quick(hybrid, tiny_sets, "--sets", "cuad_small") == first
    assert vectors.read_bytes() == kept
    rows = {row["arm"]: row for row in first["cuad_small"]["rows"]}
    assert all(0 <= row["nDCG@10"] <= 1 and 0 <= row["R@10"] <= 1 for row in rows.values())
    assert rows["hybrid (one pass)"]["nDCG@10"] != rows["one pass"]["nDCG@10"]


def test_precision_runs(tiny_sets, monkeypatch):
    from benchmarks import precision

    monkeypatch.setattr(precision, "QUICK_SETS", ("cuad_small",))
    monkeypatch.setattr(precision, "SETS", {"cuad_small": 2})
    (entry,) = run_quick(precision, tiny_sets).values()
    for found in entry["arms"].values():
        assert set(found["differences"]) == {
            "float32 asked in bfloat16",
            "bfloat16 asked in float32",
            "bfloat16 asked in bfloat16",
        }
        assert 0.999 < found["cosine"][1] < 1


def test_migration_runs(tiny_sets, monkeypatch):
    from benchmarks import migration

    monkeypatch.setattr(migration, "QUICK_SETS", ("cuad_small",))
    monkeypatch.setattr(migration, "CACHE", tiny_sets)
    for variable in migration.FOLDERS.values():
        monkeypatch.delenv(variable, raising=False)
    (entry,) = run_quick(migration, tiny_sets).values()
    (ways,) = entry["pairs"].values()
    assert [way["method"] for way in ways] == [
        *("old queries, old vectors", "raw", "shift"),
        *("Procrustes", "Procrustes", "re-indexed"),
    ]
    assert [way["pairs"] for way in ways] == [0, 0, 4, 2, 4, 0]
    assert ways[0]["difference"] == [0, 0, 0]


def test_an_encoder_that_is_the_old_one_turned_is_asked_as_if_it_were_not(tiny_sets):
    from benchmarks import migration

    evalset = evalsets.load_set("cuad_small", documents=None)
    generator = np.random.default_rng(0)
    chunks, queries, apart = (generator.standard_normal((rows, 4)) for rows in (12, 6, 9))
    turn = np.linalg.qr(generator.standard_normal((4, 4)))[0]
    old = migration.Side(chunks, queries, apart)
    new = migration.Side(chunks @ turn, queries @ turn, apart @ turn)
    ways = migration.measure_pair(evalset, old, new)
    found = {(way["method"], way["pairs"]): way["nDCG@10"] for way in ways}
    assert found["Procrustes", 9] == found["old queries, old vectors", 0] == found["re-indexed", 0]
    assert found["raw", 0] != found["re-indexed", 0]


def test_short_documents_runs(tmp_path):
    from benchmarks import short_documents

    results = run_quick(short_documents, tmp_path)
    assert results["plain nodes, alone"]["speed"] == 1
    assert len(results) == 7


def test_blends_runs(tiny_sets):
    from benchmarks import blends

    (entry,) = run_quick(blends, tiny_sets, "--sets", "cuad_small").values()
    arms = [row["arm"] for row in entry["rows"]]
    assert arms[:2] == ["isolated", "untrained, in context"]
    assert arms[-4:] == [blends.IN_ONE_PASS, *blends.WITH_WORDS]
    assert all(0 <= row["nDCG@10"] <= 1 for row in entry["rows"])


def test_ablation_runs_and_an_adapter_is_trained_once(tiny_sets, monkeypatch):
    pytest.importorskip("peft")
    from benchmarks import ablation
    from corpora.code import read_code_files

    stdlib = Path(sysconfig.get_paths()["stdlib"])
    documents = read_code_files(stdlib, source="stdlib", limit=8)
    documents += [replace(each, source="other") for each in read_code_files(stdlib, source="x", limit=16)[8:]]
    monkeypatch.setattr(ablation, "read_sources", lambda: (documents, []))
    monkeypatch.setattr(ablation, "QUICK_RESULTS", tiny_sets)
    names = [name for name, *_ in ablation.find_variants(documents, ablation.read_options(2))]
    assert names[:3] == ["all", "without stdlib", "without other"]
    (entry,) = run_quick(ablation, tiny_sets, "--sets", "cuad_small").values()
    (entry_again,) = run_quick(ablation, tiny_sets, "--sets", "cuad_small").values()
    assert entry == entry_again
    rows = {row["arm"]: row for row in entry["rows"]}
    assert list(rows) == ["isolated", "all", "all + late interaction", *names[4::4]]
    assert "nDCG@10 over all" not in rows["all"] and "nDCG@10 over all" in rows[names[4]]


def test_the_mixture_of_the_benchmark_is_that_of_the_package():
    from benchmarks.blends import mix
    from rag_embed.pooling import blend

    alone, late = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
    # A chunk that contains another is no neighbour of it, so nothing is left out.
    blended = blend(late, alone, 0.5, spans=[CharSpan(i, 20 - i) for i in range(5)])
    assert (mix(alone, late, 1) - blended).abs().max() < 1e-6
    assert (mix(alone, late, 0) - blended).abs().max() > 1e-2


def test_launches_runs(tmp_path):
    from benchmarks import launches

    for ways in run_quick(launches, tmp_path).values():
        apart, batched = ways[launches.APART], ways[launches.BATCHED]
        assert batched["passes"] < apart["passes"]
        assert batched["operators"] < apart["operators"]
        assert (batched["tokens"], batched["chunks"]) == (apart["tokens"], apart["chunks"])


def test_chat_runs(tmp_path):
    pytest.importorskip("nicegui")
    from benchmarks import chat

    results = run_quick(chat, tmp_path, "--people", "3")
    assert results["chunks"] == chat.QUICK_CHUNKS
    assert 0 < results["first_token"]["median_ms"] <= results["first_token"]["worst_ms"]
    many = results["many"]
    assert many["questions"] >= many["people"] == 3
    assert many["errors"] == many["answers_in_a_wrong_conversation"] == 0


def test_quotes_runs(tiny_sets):
    from benchmarks import quotes

    spans = [f"q{i}\td{i}\t0:22\t1" for i in range(6)]
    rows = "\n".join(["query_id\tdoc_id\tchar_span\trelevance", *spans])
    (tiny_sets / "eval" / "cuad_small" / "qrels_spans.tsv").write_text(rows)
    (entry,) = run_quick(quotes, tiny_sets, "--sets", "cuad_small").values()
    assert entry["documents"] == 2
    assert entry["passages_hold"] == 1
    assert entry["rows"][quotes.OURS]["held"] == [
        1,
        1,
        1,
    ]  # two documents of three sentences: one cannot miss
    assert entry["rows"][quotes.BEFORE]["gain"] == [0, 0, 0]


@pytest.mark.slow
def test_backends_run_and_those_that_are_not_installed_say_so(tiny_sets, monkeypatch):
    from benchmarks import backends, exports

    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    threads = torch.get_num_threads()
    results = run_quick(backends, tiny_sets)
    assert torch.get_num_threads() == threads
    rows = results["backends"]
    assert list(rows) == list(exports.MAKERS)
    assert rows["CTranslate2 int8"] == {"missing": "ctranslate2 is not installed"}
    assert rows[exports.OURS]["cosine"]["chunks"] == pytest.approx([1, 1], abs=1e-4)
    assert rows[exports.OURS]["sets"]["cuad_small"]["difference"] == [0, 0, 0]
    for name, row in rows.items():
        if "missing" not in row:
            assert row["windows"]["tokens_per_s"] > 0 < row["chunks"]["tokens_per_s"]
            assert min(row["cosine"]["stretches"]) > (0.9 if "int8" in name else 0.999)
    assert {row["windows_per_pass"] for row in results["passes"]} == {1, 2, 4, 8}


def test_padded_batches_hold_every_text_once_and_keep_to_their_length():
    from benchmarks.exports import _batches

    texts = [np.zeros(length) for length in (3, 3, 4, 5, 5, 30)]
    batches = [[len(text) for text in batch] for batch in _batches(texts, 12)]
    assert batches == [[3, 3, 4], [5, 5], [30]]


def test_chunk_vectors_of_the_benchmark_are_the_encoders(tiny_sets):
    from benchmarks import backends, exports
    from rag_embed import ContextualEmbedding

    model = ContextualEmbedding(strategy="isolated", adapter=None, dtype="float32")
    texts = ["The lease ends in May.", "Rent.", "The rent is due on Monday, or on the day before it."]
    read = exports.ours(model.encoder, tiny_sets)
    found = backends.embed(read, backends.tokenize(model.encoder, texts), 1024)
    assert found == pytest.approx(np.array(model.get_text_embedding_batch(texts)), abs=1e-5)


def test_legs_runs(tmp_path):
    from benchmarks import legs

    results = run_quick(legs, tmp_path)
    assert results["ingestion"]["rows"][legs.PLAIN]["x vectors alone"] == [1, 1, 1]
    sizes = results["queries"]["bytes per chunk"]
    assert sizes["tokens"] > legs.TOKENS * 48  # four tokens to a vector of 384 halves of a byte
    assert all(ms > 0 for ms in results["queries"]["ms"].values())


def test_token_forms_runs(tiny_sets, monkeypatch):
    from benchmarks import token_forms

    monkeypatch.setattr(token_forms, "QUICK_SETS", ("cuad_small",))
    (entry,) = run_quick(token_forms, tiny_sets).values()
    sizes = {row["form"]: row["bytes"] for row in entry["rows"]}
    assert sizes["int4 x4"] == 9_600
    assert sizes["float16 x1"] == 16 * sizes["int4 x4"]


def test_late_interaction_runs(tiny_sets, monkeypatch):
    from benchmarks import late_interaction

    monkeypatch.setattr(late_interaction, "QUICK_SETS", ("cuad_small",))
    (entry,) = run_quick(late_interaction, tiny_sets).values()
    sizes = entry["vectors per chunk"]
    assert (
        sizes["every token"] == sizes["signs"] > sizes["without punctuation"] > sizes["8 neighbours averaged"]
    )
    assert [row["form"] for row in entry["rows"]].count("none") == 2


@pytest.mark.slow
def test_query_adapter_runs(tiny_sets, monkeypatch):
    pytest.importorskip("peft", reason="needs the extra train")
    from benchmarks import query_adapter
    from tests.test_training import DOCUMENTS

    monkeypatch.setattr(query_adapter, "read_sources", lambda: (DOCUMENTS, []))
    (entry,) = run_quick(query_adapter, tiny_sets, "--sets", "cuad_small").values()
    gains = [row["gain"] for row in entry["rows"] if row["questions by"] == "plain"]
    assert gains == [[0, 0, 0]] * 4
    assert len(entry["rows"]) == 8


@pytest.mark.slow
def test_accelerator_runs(tmp_path):
    from benchmarks import accelerator

    for entry in run_quick(accelerator, tmp_path, "--rounds", "1").values():
        assert all(row["tokens per second"] > 0 for row in entry["rows"])


def test_seams_runs(tmp_path):
    rows = run_quick(seams, tmp_path)["rows"]
    assert all(0 < row["chunk_vectors"][0] < 1 for row in rows)


def test_store_runs(tmp_path):
    from benchmarks import store

    results = run_quick(store, tmp_path)
    assert all(entry["query"]["exact_share"] == 1 for entry in results.values())
    assert all(entry["filtered_query"]["exact_share"] == 1 for entry in results.values())


def test_quantised_runs(tiny_sets, monkeypatch):
    quantised = pytest.importorskip(
        "benchmarks.quantised", reason="needs the extra bench", exc_type=ImportError
    )
    monkeypatch.setattr("benchmarks.quantised.CACHE", tiny_sets)
    rows = run_quick(quantised, tiny_sets, "--sets", "cuad_small")["rows"]
    assert rows[0]["ndcg_10_difference"] == [0, 0, 0]
    shares = {row["storage"]: row["searched_bytes"] / (4 * 384) for row in rows}
    assert shares["float32"] == pytest.approx(1, abs=0.01)
    assert shares["float16"] == pytest.approx(1 / 2, abs=0.01)
    assert shares["int8"] == pytest.approx(1 / 4, abs=0.01)
    assert shares["prefix of 96"] == pytest.approx(1 / 4, abs=0.01)
    assert shares["binary"] == pytest.approx(1 / 32, abs=0.01)
    # Ten candidates per result are more chunks than there are.
    assert all(row["nearest_found"] == 1 for row in rows if row["oversampling"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_throughput_runs(tmp_path):
    throughput = pytest.importorskip(
        "benchmarks.throughput", reason="needs the extra bench", exc_type=ImportError
    )
    contestants = run_quick(throughput, tmp_path)["contestants"]
    assert contestants["rag-embed isolated"]["padding_share"] == 0
    assert len({entry["flops_needed"] for name, entry in contestants.items() if "batch" in name}) == 1
    assert all(entry["flops_needed"] > 0 for entry in contestants.values())


@pytest.mark.slow
def test_ray_ingestion_runs(tmp_path):
    pytest.importorskip("llama_index.ingestion.ray", reason="needs the extra ray")
    command = [sys.executable, "-m", "benchmarks.ray_ingestion", "--quick", "--results", str(tmp_path)]
    subprocess.run(command, cwd=report.ROOT, check=True)
    result = json.loads((tmp_path / "ray_ingestion.json").read_text())
    assert set(result["results"]["rows"]) == {"1", "2"}
    assert all(row["chunks_per_s"] > 0 for row in result["results"]["rows"].values())
    assert "| workers: 2 |" in TABLES["ray_ingestion"][1](result)


@pytest.mark.slow
def test_memory_runs(tmp_path):
    from benchmarks import memory

    entry = run_quick(memory, tmp_path)["contestants"][memory.OURS]
    assert all(probe["peak_mb"] >= probe["loaded_mb"] > 50 for probe in entry.values())


STORE_RESULT = {
    "name": "store",
    "command": "python -m benchmarks.store",
    "is_quick": False,
    "date": "2026-01-01",
    "commit": "abc",
    "model": "none",
    "data": "points",
    "n": 3,
    "interval": "none",
    "machine": {
        "cpu": "a chip",
        "cores": 2,
        "threads": 2,
        "instructions": "AVX2",
        "accelerator": None,
        "torch": "2",
    },
    "results": {
        "ours": {
            "ingest_s": 1.5,
            "query": {"median_ms": 2.5, "exact_share": 1.0},
            "filtered_query": {"median_ms": 3.5, "exact_share": 0.9},
        }
    },
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "results").mkdir()
    seams_marker = "<!-- results:seams -->\n<!-- /results -->\n"
    page = f"before\n<!-- results:store -->\nold\n<!-- /results -->\nafter\n{seams_marker}"
    (tmp_path / "docs" / "benchmarks.md").write_text(page)
    for name in set(render.FILES) - {"docs/benchmarks.md"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no tables\n")
    (tmp_path / "results" / "store.json").write_text(json.dumps(STORE_RESULT))
    return tmp_path


def test_check_fails_until_the_tables_are_rendered(project):
    words = ["--root", str(project), "--results", str(project / "results")]
    assert render.main([*words, "--check"]) == 1
    assert "old" in (project / "docs" / "benchmarks.md").read_text()
    assert render.main(words) == 0
    page = (project / "docs" / "benchmarks.md").read_text()
    assert page.startswith("before\n") and "\nafter\n" in page and "old" not in page
    assert "| ours | 1.5 | 2.5 | 3.5 | 100% | 90% |" in page
    assert page.endswith("<!-- results:seams -->\n<!-- /results -->\n")
    assert render.main([*words, "--check"]) == 0


def test_quick_results_are_not_rendered(project):
    path = project / "results" / "store.json"
    path.write_text(json.dumps({**STORE_RESULT, "is_quick": True}))
    assert render.load_results(project / "results") == {}


def test_an_unknown_table_is_refused():
    with pytest.raises(ValueError, match="there is no table 'nothing'; expected one of throughput, "):
        render.fill_tables("<!-- results:nothing -->\n<!-- /results -->", {})


def test_documents_agree_with_the_results():
    assert render.main(["--check"]) == 0


def test_results_name_no_machine():
    described = report.describe_machine()
    assert described.keys() >= {"cpu", "cores", "threads", "torch", "load_average"}
    assert str(report.ROOT) not in json.dumps(described)
