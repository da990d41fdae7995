"""Adapters against the arithmetic of LoRA and against peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rag_embed import CharSpan, ContextualEmbedding, load_encoder
from rag_embed.adapter import locate_adapter
from rag_embed.devices import Dtype
from rag_embed.errors import UnsupportedModelError
from tests.checkpoints import tiny_bert
from tests.precisions import PRECISIONS, TOLERANCE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model"))


def write_adapter(folder: Path, checkpoint: Path, *, rank: int = 3, seed: int = 0) -> Path:
    """A random adapter on every linear layer of the encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        if name.startswith("encoder.") and weight.ndim == 2:
            layer = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{layer}.lora_A.weight"] = 0.3 * torch.randn(rank, weight.shape[1], generator=generator)
            tensors[f"{layer}.lora_B.weight"] = 0.3 * torch.randn(weight.shape[0], rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["query", "key", "value", "dense"],
        "exclude_modules": r"pooler\..*",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    sha256 = load_encoder(checkpoint).profile.weights_sha256
    card = {"base": {"name": "tiny", "sha256": sha256}, "window_tokens": 40}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter") / "mine", checkpoint)


def states_of(folder: Path, ids: np.ndarray, adapter: Path | None = None) -> torch.Tensor:
    return next(iter(load_encoder(folder, adapter=adapter).encode([ids])))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # asked by peft itself
@pytest.mark.parametrize("precision", PRECISIONS)
def test_merged_states_are_those_of_peft(checkpoint: Path, adapter: Path, precision: Dtype) -> None:
    """Against peft in float32, which adds the adapter's product in every forward pass."""
    peft = pytest.importorskip("peft", reason="needs the extra train")
    from transformers import AutoModel

    encoder = load_encoder(checkpoint, dtype=precision)
    ids = encoder.tokenize("the capital city of germany has its people and a river").ids
    reference = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(checkpoint).eval(), str(adapter))
    full = torch.tensor([[*encoder.prefix_ids, *ids, *encoder.suffix_ids]])
    with torch.inference_mode():
        expected = reference(input_ids=full).last_hidden_state[0]
    merged = next(load_encoder(checkpoint, dtype=precision, adapter=adapter).encode([ids])).float()
    without = next(encoder.encode([ids])).float()
    tolerance = TOLERANCE[precision] * float(expected.abs().max())
    assert float((merged - expected).abs().max()) < tolerance
    assert float((merged - without).abs().max()) > 2 * tolerance


def test_an_adapter_of_zeros_changes_nothing(tmp_path: Path, checkpoint: Path) -> None:
    folder = write_adapter(tmp_path / "zero", checkpoint)
    weights = {
        name: tensor * (0 if ".lora_B." in name else 1)
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    save_file(weights, folder / "adapter_model.safetensors")
    ids = load_encoder(checkpoint).tokenize("this bridge with that river").ids
    assert torch.equal(states_of(checkpoint, ids, folder), states_of(checkpoint, ids))


def test_only_windows_see_the_adapter(checkpoint: Path, adapter: Path) -> None:
    plain = ContextualEmbedding(model=str(checkpoint), adapter=None)
    adapted = ContextualEmbedding(model=str(checkpoint), adapter=str(adapter))
    assert plain.get_query_embedding("river") == adapted.get_query_embedding("river")
    assert plain.get_text_embedding("river") == adapted.get_text_embedding("river")
    assert adapted.context_encoder is not adapted.encoder
    assert plain.context_encoder is plain.encoder
    assert adapted.window_options.window_tokens == 40


def test_the_fingerprint_follows_the_adapter(tmp_path: Path, checkpoint: Path, adapter: Path) -> None:
    other = write_adapter(tmp_path / "mine", checkpoint, seed=1)
    prints = {
        ContextualEmbedding(model=str(checkpoint), adapter=name).fingerprint()
        for name in (None, str(adapter), str(other))
    }
    assert len(prints) == 3
    isolated = [
        ContextualEmbedding(model=str(checkpoint), adapter=name, strategy="isolated").fingerprint()
        for name in (None, str(adapter))
    ]
    assert isolated[0] == isolated[1]


def test_an_adapter_of_other_weights_is_refused(tmp_path: Path, checkpoint: Path, adapter: Path) -> None:
    other = tiny_bert(tmp_path, seed=5)
    with pytest.raises(UnsupportedModelError, match=r"was trained on weights \w{8}; this model has \w{8}"):
        load_encoder(other, adapter=adapter)


@pytest.mark.parametrize("file", ["card.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, checkpoint: Path, file: str) -> None:
    folder = write_adapter(tmp_path / "mine", checkpoint)
    (folder / file).unlink()
    with pytest.raises(UnsupportedModelError, match=f"has no {file}"):
        locate_adapter(folder)


def test_damaged_files_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    folder = write_adapter(tmp_path / "mine", checkpoint)
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnsupportedModelError, match="cannot be read"):
        load_encoder(checkpoint, adapter=folder)
    save_file({"base_model.model.encoder.x.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match="holds other tensors than pairs"):
        load_encoder(checkpoint, adapter=folder)
    (folder / "card.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="are damaged"):
        locate_adapter(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("another width", r"have shapes \(3, 7\) and \(32, 3\); expected \(3, 32\) and \(32, 3\)"),
        ("one row, which would broadcast", r"have shapes \(3, 32\) and \(1, 3\); expected"),
        ("another rank than its config", r"have shapes \(4, 32\) and \(32, 4\); expected"),
        ("a vector", r"have shapes \(32,\) and \(32, 3\); expected"),
        ("huge", r"would change weights of size .* expected finite numbers, and at most 1000 times"),
        ("NaN", r"would change weights of size .* by nan; expected finite numbers"),
        ("infinite", r"would change weights of size .*; expected finite numbers"),
    ],
)
def test_tensors_that_training_does_not_make_are_refused(
    tmp_path: Path, checkpoint: Path, damage: str, message: str
) -> None:
    folder = write_adapter(tmp_path / "mine", checkpoint)
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in sorted(tensors) if "query.lora_A." in name)
    pair = name.replace("lora_A", "lora_B")
    low, high = tensors[name], tensors[pair]
    tensors |= {
        "another width": {name: torch.zeros(3, 7)},
        "one row, which would broadcast": {pair: high[:1].clone()},
        "another rank than its config": {name: torch.zeros(4, 32), pair: torch.zeros(32, 4)},
        "a vector": {name: torch.zeros(32)},
        "huge": {name: torch.full_like(low, 1e30)},
        "NaN": {name: torch.full_like(low, float("nan"))},
        "infinite": {name: torch.full_like(low, float("inf"))},
    }[damage]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match=rf"does not fit the model at .*: .*{message}"):
        load_encoder(checkpoint, adapter=folder)


def test_an_adapter_without_tensors_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    folder = write_adapter(tmp_path / "mine", checkpoint)
    save_file({}, folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match="holds no tensors; only plain LoRA"):
        load_encoder(checkpoint, adapter=folder)


def test_an_adapter_of_a_layer_that_is_not_linear_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    folder = write_adapter(tmp_path / "mine", checkpoint)
    layer = "base_model.model.embeddings.word_embeddings"
    tensors = {f"{layer}.lora_A.weight": torch.zeros(3, 32), f"{layer}.lora_B.weight": torch.zeros(120, 3)}
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match="it is Embedding; expected a linear layer"):
        load_encoder(checkpoint, adapter=folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": -3},
        {"r": 0},
        {"r": "three"},
        {"r": 2.5},
        {"lora_alpha": -6},
        {"lora_alpha": 0},
        {"lora_alpha": 1e999},
        {"lora_alpha": float("nan")},
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "all"},
        {"alpha_pattern": {"query": 3}},
    ],
)
def test_a_config_that_does_not_say_plain_lora_is_refused(
    tmp_path: Path, checkpoint: Path, changes: dict[str, object]
) -> None:
    folder = write_adapter(tmp_path / "mine", checkpoint)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UnsupportedModelError, match="are damaged"):
        locate_adapter(folder)


def test_the_adapters_scale_is_in_the_fingerprint(tmp_path: Path, checkpoint: Path, adapter: Path) -> None:
    other = Path(shutil.copytree(adapter, tmp_path / "mine"))
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
    before, after = (
        ContextualEmbedding(model=str(checkpoint), adapter=str(folder)) for folder in (adapter, other)
    )
    assert before.fingerprint() != after.fingerprint()
    text, spans = "the river and the bridge", [CharSpan(0, 9)]
    vectors = [model.embedder.embed_chunks(text, spans) for model in (before, after)]
    assert float((vectors[0] - vectors[1]).abs().max()) > 1e-3
