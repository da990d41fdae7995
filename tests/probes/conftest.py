"""The command line and a tiny model, reached by names that every commit has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner, Result

from rag_embed import ContextualEmbedding
from rag_embed.cli.app import app

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path) -> Run:
    """Run a command on the store in `tmp_path`; commands that take a model are given the tiny one."""

    def run_command(*arguments: object, **options: Any) -> Result:
        words: list[object] = list(arguments)
        if "--store" not in words and "--url" not in words and words[0] not in ("evaluate", "train"):
            words += ["--store", tmp_path / "store"]
        if words[0] != "info" and "--model" not in words:
            words += ["--model", tiny_folder]
        return CliRunner().invoke(app, [str(word) for word in words], **options)

    return run_command


@pytest.fixture
def model(tiny_folder: Path) -> ContextualEmbedding:
    return ContextualEmbedding(model=str(tiny_folder), strategy="late", device="cpu", dtype="float32")
