"""The mean of adapters changes weights by the mean of what they change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rag_embed.adapter import Adapter, locate_adapter, merge_adapter
from rag_embed.errors import InputError
from rag_embed.loading import load_encoder
from rag_embed.training.averaging import average_adapters
from tests.checkpoints import tiny_bert
from tests.test_adapter import write_adapter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model"))


def changes(checkpoint: Path, adapter: Adapter) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight of the checkpoint."""
    encoder = load_encoder(checkpoint, dtype="float32")
    model = encoder.trainable_model()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    merge_adapter(model, adapter, weights_sha256=encoder.profile.weights_sha256)
    return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}


@pytest.mark.parametrize("ranks", [(3,), (3, 3), (1, 4, 2)])
def test_the_mean_changes_weights_by_the_mean(
    tmp_path: Path, checkpoint: Path, ranks: tuple[int, ...]
) -> None:
    parts = [
        locate_adapter(write_adapter(tmp_path / f"part{seed}", checkpoint, rank=rank, seed=seed))
        for seed, rank in enumerate(ranks)
    ]
    mean = locate_adapter(average_adapters(parts, tmp_path / "mean", window_tokens=24))
    assert (mean.rank, mean.window_tokens, mean.base_sha256) == (sum(ranks), 24, parts[0].base_sha256)
    of_parts = [changes(checkpoint, part) for part in parts]
    found = changes(checkpoint, mean)
    assert any(change.abs().max() > 0.1 for change in found.values())
    for name, change in found.items():
        expected = torch.stack([each[name] for each in of_parts]).mean(dim=0)
        torch.testing.assert_close(change, expected, atol=5e-3, rtol=0)  # the file holds half precision


@pytest.mark.parametrize("rank", [1, 4, 6, 9])
def test_a_shorter_mean_is_the_nearest_of_its_rank(tmp_path: Path, checkpoint: Path, rank: int) -> None:
    parts = [
        locate_adapter(write_adapter(tmp_path / f"part{seed}", checkpoint, rank=2, seed=seed))
        for seed in range(3)
    ]
    full = average_adapters(parts, tmp_path / "full", window_tokens=24)
    mean = locate_adapter(average_adapters(parts, tmp_path / "mean", window_tokens=24, rank=rank))
    assert mean.rank == min(rank, 6)
    whole, short = changes(checkpoint, locate_adapter(full)), changes(checkpoint, mean)
    for name, change in whole.items():
        if change.abs().max() > 0.1:
            rest = torch.linalg.svdvals(change)[rank:].square().sum().sqrt()
            assert (change - short[name]).norm() == pytest.approx(float(rest), abs=0.02)


def test_the_card_names_the_parts_and_the_same_again_is_left_as_it_is(
    tmp_path: Path, checkpoint: Path
) -> None:
    parts = [
        locate_adapter(write_adapter(tmp_path / f"part{seed}", checkpoint, seed=seed)) for seed in (0, 1)
    ]
    folder = average_adapters(parts, tmp_path / "mean", window_tokens=24, card={"command": "a b"})
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["command"] == "a b"
    assert card["mean_of"] == [json.loads((part.folder / "card.json").read_text()) for part in parts]
    written = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    assert average_adapters(parts, folder, window_tokens=24) == folder
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="holds a finished adapter of other documents"):
        average_adapters(parts[:1], folder, window_tokens=24)


def test_adapters_of_different_kinds_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    one = locate_adapter(write_adapter(tmp_path / "one", checkpoint))
    other_folder = write_adapter(tmp_path / "other", checkpoint)
    card = json.loads((other_folder / "card.json").read_text())
    (other_folder / "card.json").write_text(json.dumps({**card, "shared_layers": 1}))
    with pytest.raises(InputError, match="2 adapters of 2 kinds"):
        average_adapters([one, locate_adapter(other_folder)], tmp_path / "mean", window_tokens=24)
    with pytest.raises(InputError, match="0 adapters of 0 kinds"):
        average_adapters([], tmp_path / "mean", window_tokens=24)
    assert not (tmp_path / "mean").exists()
