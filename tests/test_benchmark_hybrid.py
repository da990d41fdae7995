"""The table of all ways to search: what the README shows first, losses included."""

from __future__ import annotations

import json

import pytest

from benchmarks import hybrid, render
from benchmarks.quality_tables import HYBRID_COLUMNS
from benchmarks.report import RESULTS
from benchmarks.tables import TABLES


def row(arm, value, **over):
    return {"arm": arm, "nDCG@10": value, "R@10": 0.5, **{f"nDCG@10 over {k}": v for k, v in over.items()}}


HYBRID = "hybrid (one pass)"
RESULT = {
    "results": {
        "pages": {
            "queries": 1200,
            "rows": [
                row("isolated", 0.5, **{HYBRID: [-0.2, -0.25, -0.1]}),
                row("bm25", 0.75, **{HYBRID: [0.05, 0.01, 0.09]}),
                row("title + isolated", 0.6, **{HYBRID: [-0.1, -0.2, 0.0]}),
                row("title + bm25", 0.7, **{HYBRID: [0.0, -0.1, 0.1]}),
                row("dense default (two passes)", 0.65, **{HYBRID: [-0.05, -0.1, 0.02]}),
                row(HYBRID, 0.7),
                row("hybrid by RRF", 0.68),
                row("hybrid + late interaction", 0.71, **{HYBRID: [0.01, -0.02, 0.04]}),
            ],
        },
        "talks": {
            "queries": 30,
            "rows": [
                row("isolated", 0.3),
                row("bm25", 0.1),
                row("dense default (two passes)", 0.35),
                row(HYBRID, 0.4),
                row("hybrid + late interaction", 0.39),
            ],
        },
    }
}


def test_the_first_table_shows_every_set_its_best_way_and_the_mean():
    lines = TABLES["hybrid"][1](RESULT).splitlines()
    assert lines[0] == (
        "| nDCG@10 | queries | isolated | title + isolated | BM25 | title + BM25 | dense default | hybrid "
        "| hybrid + late interaction |"
    )
    # A loss stays a loss: BM25 is the best of this set, and bold.
    assert lines[2] == "| pages | 1,200 | 50.0 | 60.0 | **75.0** | 70.0 | 65.0 | 70.0 | 71.0 |"
    assert lines[3] == "| talks | 30 | 30.0 | – | 10.0 | – | 35.0 | **40.0** | 39.0 |"
    # Where there are no titles, a way with titles is the one without.
    assert lines[4] == "| mean over sets | 1,230 | 40.0 | 45.0 | 42.5 | 40.0 | 50.0 | 55.0 | 55.0 |"


def test_the_longer_table_turns_differences_round():
    lines = TABLES["hybrid_gains"][1](RESULT).splitlines()
    assert lines[2] == (
        "| pages | 0.700 | +0.200 [+0.100, +0.250] | +0.100 [+0.000, +0.200] | -0.050 [-0.090, -0.010] "
        "| +0.000 [-0.100, +0.100] | +0.050 [-0.020, +0.100] | +0.010 [-0.020, +0.040] |"
    )
    assert "hybrid by RRF" in TABLES["hybrid_arms"][1](RESULT)


@pytest.mark.parametrize("has_titles", [False, True])
def test_the_benchmark_measures_every_column(has_titles):
    arms = {arm.name for arm in hybrid.make_arms(has_titles=has_titles)}
    expected = {name for name in HYBRID_COLUMNS if has_titles or not name.startswith("title")}
    assert expected <= arms


def test_the_readme_shows_all_ways_first_and_docs_show_all_arms():
    readme = (render.ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.index("<!-- results:") == readme.index("<!-- results:hybrid -->")
    page = (render.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "<!-- results:hybrid_gains -->" in page and "<!-- results:hybrid_arms -->" in page
    result = json.loads((RESULTS / "hybrid.json").read_text(encoding="utf-8"))
    for name in result["results"]:
        assert f"| {name} |" in readme
