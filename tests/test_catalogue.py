"""The list of families: on the command line, in the docs, and in agreement with the loader."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from benchmarks.negation import find_errors
from benchmarks.negation_triplets import list_triplets
from rag_embed import ContextualEmbedding
from rag_embed.cli.app import app
from rag_embed.profiles import FAMILIES, list_families, render_markdown
from tests.checkpoints import tiny_bert

DOCS = Path(__file__).parent.parent / "docs" / "models.md"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_docs_hold_what_the_command_prints() -> None:
    text = DOCS.read_text(encoding="utf-8")
    found = re.search(r"<!-- families -->\n(.*)<!-- /families -->", text, re.DOTALL)
    assert found, "docs/models.md has lost its table"
    assert found[1] == run("--markdown"), "paste the output of `rag-embed models --markdown`"


def test_json_says_per_family_what_a_user_asks() -> None:
    rows = {row["family"]: row for row in json.loads(run("--json"))}
    assert list(rows) == [*(family.name for family in FAMILIES), "multi-vector", "sentence-transformers"]
    assert rows["e5"]["query_prefix"] == "query: "
    assert (
        rows["jina-v2"] | {"dims": [512, 768], "max_tokens": 8192, "licence": "Apache-2.0"} == rows["jina-v2"]
    )
    assert rows["pplx-embed-context-v1"]["strategies"] == ["native", "isolated"]
    late = {name for name, row in rows.items() if "late" in row["strategies"]}
    assert late == {
        "minilm", "mpnet", "e5", "e5-instruct", "multilingual-e5", "gte", "modernbert-embed", "pplx-embed-v1",
        "jina-v1", "jina-v2", "jina-v3", "multi-vector", "sentence-transformers",
    }  # fmt: skip
    assert all(row["tested"] and row["licence"] for row in rows.values())


def test_the_table_for_people_names_every_family() -> None:
    shown = run()
    for row in list_families():
        assert row.family in shown


def test_markdown_has_a_cell_per_column() -> None:
    for line in render_markdown(list_families()).splitlines():
        assert not line or line.count("|") in {7, 10}


def test_listing_models_loads_none() -> None:
    code = "import sys; from rag_embed.profiles import *; list_families(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_negation_triplets_are_triplets() -> None:
    triplets = list_triplets()
    assert len(triplets) >= 100
    assert len({triplet.anchor for triplet in triplets}) == len(triplets)
    for triplet in triplets:
        sentences = (triplet.anchor, triplet.entailment, triplet.negative)
        assert len(set(sentences)) == 3
        assert all(s[0].isupper() and s.endswith(".") and "{" not in s for s in sentences)
        # The denial is nearer in words, which is what makes it hard.
        anchor, entailment, negative = (set(s.lower().strip(".").split()) for s in sentences)
        assert len(anchor & negative) > len(anchor & entailment)


def test_errors_are_those_counted_one_by_one(tmp_path: Path) -> None:
    model = ContextualEmbedding(
        model=str(tiny_bert(tmp_path / "tiny")), strategy="isolated", device="cpu", dtype="float32"
    )
    triplets = list_triplets()[::9]
    expected = []
    for triplet in triplets:
        anchor, near, far = (
            model.get_text_embedding(s) for s in (triplet.anchor, triplet.entailment, triplet.negative)
        )
        near_score = sum(x * y for x, y in zip(anchor, near, strict=True))
        expected.append(sum(x * y for x, y in zip(anchor, far, strict=True)) > near_score)
    assert find_errors(model, triplets) == expected
    assert len(expected) > 0
