"""Checkpoints that are damaged, hostile or put together of two: one error each, at once, and no hang."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rag_embed.encoder import Encoder
from rag_embed.errors import ModelError, UnsupportedModelError
from rag_embed.loading import load_encoder
from rag_embed.profiles import locate_checkpoint
from tests.checkpoints import write_json

CPU = torch.device("cpu")
SETTINGS: dict[str, object] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "q: "},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    },
}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint in sentence-transformers layout, to be damaged."""
    copied = Path(shutil.copytree(tiny_folder, tmp_path / "damaged"))
    (copied / "1_Pooling").mkdir(exist_ok=True)
    for name, content in SETTINGS.items():
        (copied / name).write_text(json.dumps(content))
    return copied


def load(folder: Path) -> Encoder:
    return Encoder(locate_checkpoint(folder), device=CPU, dtype=torch.float32)


def change(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    write_json(path, json.loads(path.read_text()) | changes)


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", -4),
        ("num_attention_heads", 10**9),
        ("num_hidden_layers", 100_000),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", "two"),
        ("vocab_size", 0),
        ("max_position_embeddings", 10**11),
        ("intermediate_size", 1.5),
    ],
)
def test_a_number_that_no_model_has_is_named(folder: Path, key: str, value: object) -> None:
    change(folder, **{key: value})
    with pytest.raises(UnsupportedModelError, match=rf"{key} '{value}'; expected a whole number from 1 to"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_eps": "1e-12"},
        {"hidden_act": "nonesuch"},
        {"hidden_act": ["gelu"]},
        {"num_attention_heads": 3},
        {"model_type": "nonesuch"},
        {"model_type": ["bert"]},
        {"vocab_size": 7},
        {"pad_token_id": 10**6},
    ],
)
def test_what_a_library_raises_over_a_config_is_one_error(folder: Path, changes: dict[str, object]) -> None:
    change(folder, **changes)
    with pytest.raises(UnsupportedModelError, match=r"could not be loaded|cannot read the letter"):
        load(folder)


def test_every_setting_may_be_anything_without_a_traceback(folder: Path) -> None:
    """Each value of each settings file replaced by something else: loaded or refused, never another error."""
    bad: list[object] = [None, -1, 10**12, 1e400, "text", [], {"a": 1}, True, [[[]]]]
    outcomes = {"loaded": 0, "refused": 0}
    for name in [*SETTINGS, "config.json", "tokenizer_config.json"]:
        path = folder / name
        whole = path.read_text()
        content = json.loads(whole)
        for number, key in enumerate(content if isinstance(content, dict) else range(len(content))):
            for value in bad[number % 3 :: 3]:
                edited = json.loads(whole)
                edited[key] = value
                path.write_text(json.dumps(edited))
                try:
                    load(folder)
                    outcomes["loaded"] += 1
                except ModelError:
                    outcomes["refused"] += 1
        path.write_text(whole)
    load(folder)
    assert min(outcomes.values()) > 20, outcomes


def test_ids_beyond_the_vocabulary_are_refused_at_loading(folder: Path) -> None:
    """Not in the midst of an index, by the first document that holds such a word."""

    def halve(weights: dict[str, torch.Tensor]) -> None:
        words = weights["embeddings.word_embeddings.weight"]
        weights["embeddings.word_embeddings.weight"] = words[: len(words) // 2].contiguous()
        change(folder, vocab_size=len(words) // 2)

    change_weights(folder, halve)
    with pytest.raises(UnsupportedModelError, match=r"makes ids up to \d+; the model knows \d+ words"):
        load(folder)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("layers", [1, 3])
def test_weights_and_config_of_different_depth_are_refused(folder: Path, layers: int) -> None:
    change(folder, num_hidden_layers=layers)
    message = {1: "tensors that config.json has no place for, such as 'encoder.layer.1", 3: "lack 16 tensors"}
    with pytest.raises(UnsupportedModelError, match=message[layers]):
        load(folder)


def test_the_head_of_a_language_model_is_no_surplus(folder: Path) -> None:
    def add_heads(weights: dict[str, torch.Tensor]) -> None:
        weights["cls.predictions.bias"] = torch.zeros(3)
        weights["embeddings.position_ids"] = torch.arange(64)[None]

    change_weights(folder, add_heads)
    assert load(folder).dim == 32
    change_weights(folder, lambda weights: weights.update({"encoder.adapter.weight": torch.zeros(3)}))
    with pytest.raises(
        UnsupportedModelError, match=r"hold 1 tensors that .* such as 'encoder.adapter.weight'"
    ):
        load(folder)


# ---------------------------------------------------------------- files and paths


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs an endless device")
def test_a_file_that_never_ends_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    code = (
        "import sys; from rag_embed.errors import UnsupportedModelError\n"
        "from rag_embed.profiles import locate_checkpoint\n"
        "try: locate_checkpoint(sys.argv[1])\n"
        "except UnsupportedModelError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert f"{name} is no regular file; expected a file" in done.stdout


def test_a_pipe_is_refused(folder: Path) -> None:
    (folder / "vocab.txt").unlink(missing_ok=True)
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(UnsupportedModelError, match=r"vocab\.txt is no regular file"):
        locate_checkpoint(folder)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b", "..\\elsewhere", "C:\\x"])
def test_modules_that_leave_the_folder_are_not_followed(folder: Path, path: str) -> None:
    shutil.copytree(folder, folder.parent / "elsewhere")
    write_json(folder / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": path}])
    with pytest.raises(UnsupportedModelError, match="leads out of its folder"):
        locate_checkpoint(folder)


def test_a_module_that_is_a_link_out_of_the_folder_is_not_followed(folder: Path) -> None:
    shutil.copytree(folder / "1_Pooling", folder.parent / "pooling")
    shutil.rmtree(folder / "1_Pooling")
    (folder / "1_Pooling").symlink_to(folder.parent / "pooling")
    with pytest.raises(UnsupportedModelError, match="is a link out of the checkpoint's folder"):
        locate_checkpoint(folder)


@pytest.mark.parametrize(
    "part", ["../model.safetensors", "/tmp/model.safetensors", "parts/model.safetensors"]
)
def test_parts_of_the_weights_outside_the_folder_are_not_read(folder: Path, part: str) -> None:
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"embeddings.x": part}})
    with pytest.raises(UnsupportedModelError, match=r"leads out of its folder|expected all parts beside it"):
        locate_checkpoint(folder)


def test_files_of_the_hubs_cache_are_links_and_are_read(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        blob = blobs / path.relative_to(folder).as_posix().replace("/", "-")
        path.rename(blob)
        path.symlink_to(blob)
    assert load_encoder(folder, device="cpu").dim == 32


# ---------------------------------------------------------------- fingerprints


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "relu"},
        {"layer_norm_eps": 0.1},
        {"num_attention_heads": 2},
        {"a_setting_of_tomorrow": 1},
    ],
)
def test_every_setting_that_decides_a_vector_is_in_the_fingerprint(
    folder: Path, changes: dict[str, object]
) -> None:
    before = locate_checkpoint(folder)
    change(folder, **changes)
    after = locate_checkpoint(folder)
    assert before.weights_sha256 == after.weights_sha256
    assert before.digest != after.digest


def test_the_tokenizers_settings_are_in_the_fingerprint(folder: Path) -> None:
    """BertTokenizerFast puts `do_lower_case` into the tokenizer while it is loaded."""
    before = locate_checkpoint(folder)
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | {"do_lower_case": False})
    assert locate_checkpoint(folder).digest != before.digest


def test_what_decides_no_vector_is_not_in_the_fingerprint(folder: Path) -> None:
    before = locate_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    changed = {**config, "transformers_version": "9", "hidden_dropout_prob": 0.5, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(dict(reversed(changed.items())), indent=7))
    assert locate_checkpoint(folder).digest == before.digest
