"""Exported folders are whole checkpoints for others, and equal what is computed here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from rag_embed.cli.app import app
from rag_embed.encoder import Encoder
from rag_embed.errors import InputError
from rag_embed.export import export_checkpoints
from rag_embed.loading import load_encoder
from rag_embed.recipe import Recipe

TEXT = "The founder of the café says that prices are low."


def test_others_load_what_the_command_writes(minilm: Encoder, tmp_path: Path) -> None:
    """transformers' states and sentence-transformers' vectors are those of the encoder with the adapter."""
    done = CliRunner().invoke(app, ["export", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert written["adapter"] == "minilm-context"
    # Engines take this for the longest text that they may be sent.
    for part in ("base", "context"):
        settings = json.loads((Path(written[part]) / "sentence_bert_config.json").read_text(encoding="utf-8"))
        assert settings["max_seq_length"] == minilm.max_tokens == 512
    source = minilm.profile.folder / "model.safetensors"
    assert (Path(written["base"]) / "model.safetensors").read_bytes() == source.read_bytes()
    adapted = load_encoder(device="cpu", dtype="float32", adapter="minilm-context")
    (expected,) = adapted.encode([adapted.tokenize(TEXT).ids])
    (unadapted,) = minilm.encode([minilm.tokenize(TEXT).ids])
    inputs = AutoTokenizer.from_pretrained(written["context"])(TEXT, return_tensors="pt")
    with torch.inference_mode():
        found = AutoModel.from_pretrained(written["context"])(**inputs).last_hidden_state[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected - unadapted).norm(dim=1).min() > 0.1  # the adapter is no rounding error
    vector = SentenceTransformer(written["context"], device="cpu").encode(TEXT)
    mean = expected.mean(0).numpy()
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_without_an_adapter_the_base_alone(tiny_folder: Path, tmp_path: Path) -> None:
    written = export_checkpoints(Recipe(model=tiny_folder, adapter=None), tmp_path / "out")
    assert written.context is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["base"]
    assert load_encoder(written.base, device="cpu").profile.digest == Recipe(model=tiny_folder).profile.digest


def test_a_folder_that_holds_something_is_left_alone(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        export_checkpoints(Recipe(model=tiny_folder), tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_an_adapter_that_does_not_fit_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="was trained on weights"):
        export_checkpoints(Recipe(model=tiny_folder, adapter="minilm-context"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
