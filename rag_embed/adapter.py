"""Low-rank adapters of the document side, merged into an encoder's weights when it is loaded.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, section 4.1: a linear
layer's weight W becomes W + s·B·A. Merged once, so a forward pass costs what it did before. Files are those
of peft (adapter_config.json, adapter_model.safetensors) with a card.json that says what it was trained on;
peft itself is not needed to use one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rag_embed.errors import UnsupportedModelError
from rag_embed.profiles.digest import hash_files
from rag_embed.profiles.files import read_json

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
CARD_FILE = "card.json"
# Kinds of LoRA that compute something else, with the value under which they do not.
_PLAIN = {
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}
_LARGEST_CHANGE = 1000.0
"""How many times the size of a weight an adapter may be; trained ones are smaller than the weight itself."""
_SHIPPED = "adapters"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter's files and what its card says.

    Attributes:
        name: Short name for messages and fingerprints.
        folder: Its files.
        sha256: Digest of its weights.
        rank: Rows of every lora_A.
        base_sha256: Digest of the weights that it was trained on, and fits alone.
        scale: Factor of the low-rank product.
        window_tokens: Length of the windows that it was trained with.
        shared_layers: Lower layers that it leaves untouched, so that chunks are read alone and in their
            window in one pass (`shared_layers.py`); 0 for an adapter of the whole encoder.
    """

    name: str
    folder: Path
    sha256: str
    rank: int
    base_sha256: str
    scale: float
    window_tokens: int
    shared_layers: int = 0


def shipped_adapters() -> dict[str, Path]:
    """Folders of the adapters inside the package, by name."""
    root = Path(str(files("rag_embed") / _SHIPPED))
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / CARD_FILE).is_file()}


def locate_adapter(adapter: str | Path) -> Adapter:
    """Read what an adapter's folder says.

    Args:
        adapter: The name of one inside the package, or a folder that `rag-embed train` has written.

    Raises:
        UnsupportedModelError: There is no such adapter, or a file is missing or damaged.
    """
    folder = shipped_adapters().get(str(adapter), Path(adapter).expanduser())
    for file in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
        if not (folder / file).is_file():
            raise UnsupportedModelError(
                f"adapter {str(adapter)!r} has no {file}; expected a folder written by `rag-embed train`, or "
                f"one of {sorted(shipped_adapters())}"
            )
    try:
        config, card = read_json(folder / CONFIG_FILE), read_json(folder / CARD_FILE)
        rank, alpha = int(str(config["r"])), float(str(config["lora_alpha"]))
        if rank < 1 or not 0 < alpha < math.inf:
            raise ValueError(f"r is {rank} and lora_alpha {alpha}; expected positive numbers")
        if other := [key for key, plain in _PLAIN.items() if config.get(key, plain) not in (plain, None)]:
            raise ValueError(f"{other[0]} is {config[other[0]]!r}; only plain LoRA can be merged")
        base = card["base"]
        if not isinstance(base, Mapping):
            raise TypeError(f"base is {base!r}")
        window_tokens = int(str(card["window_tokens"]))
        if window_tokens < 1:
            raise ValueError(f"window_tokens is {window_tokens}; expected a positive number")
        shared_layers = int(str(card.get("shared_layers", 0)))
        if shared_layers < 0:
            raise ValueError(f"shared_layers is {shared_layers}; expected none or a positive number")
        return Adapter(
            name=folder.name,
            folder=folder,
            sha256=hash_files([folder / WEIGHTS_FILE]),
            rank=rank,
            base_sha256=str(base["sha256"]),
            scale=alpha / rank,
            window_tokens=window_tokens,
            shared_layers=shared_layers,
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UnsupportedModelError(
            f"the files of adapter {str(adapter)!r} are damaged ({type(error).__name__}: {error}); expected "
            f"lora_alpha and r in {CONFIG_FILE}, base and window_tokens in {CARD_FILE}"
        ) from error


def find_adapter(weights_sha256: str, *, shares_layers: bool) -> Adapter | None:
    """The shipped adapter that was trained on these weights, if there is one.

    Args:
        weights_sha256: Digest of the checkpoint's weights.
        shares_layers: Whether it is to be one of the upper layers; else one of the whole encoder.
    """
    located = (locate_adapter(name) for name in shipped_adapters())
    fitting = [adapter for adapter in located if adapter.base_sha256 == weights_sha256]
    return next((adapter for adapter in fitting if (adapter.shared_layers > 0) == shares_layers), None)


@torch.no_grad()
def merge_adapter(model: torch.nn.Module, adapter: Adapter, *, weights_sha256: str) -> None:
    """Add an adapter to a model's weights, in place.

    Args:
        model: As loaded from the checkpoint.
        adapter: What to add.
        weights_sha256: Digest of the checkpoint's weights.

    Raises:
        UnsupportedModelError: The adapter was trained on other weights, or its tensors do not fit.
    """
    if adapter.base_sha256 != weights_sha256:
        raise UnsupportedModelError(
            f"adapter {adapter.name!r} was trained on weights {adapter.base_sha256[:8]}; this model has "
            f"{weights_sha256[:8]}. Load the model it was trained on, or train one for this model"
        )
    try:
        tensors = load_file(adapter.folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise UnsupportedModelError(
            f"{adapter.folder / WEIGHTS_FILE} cannot be read ({error}); the file is damaged"
        ) from error
    layers = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    if not layers or {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"} != set(tensors):
        found = (
            f"other tensors than pairs of lora_A and lora_B, such as {sorted(tensors)[0]!r}"
            if tensors
            else "no tensors"
        )
        raise UnsupportedModelError(
            f"adapter {adapter.name!r} holds {found}; only plain LoRA on linear layers can be merged"
        )
    for layer in sorted(layers):
        low, high = tensors[f"{layer}.lora_A.weight"].float(), tensors[f"{layer}.lora_B.weight"].float()
        try:
            _merge_layer(model, layer.removeprefix(PEFT_PREFIX), adapter, low, high)
        except (AttributeError, ValueError) as error:
            raise UnsupportedModelError(
                f"adapter {adapter.name!r} does not fit the model at {layer!r}: {error}. It is damaged, or "
                "was made for another architecture"
            ) from error


def _merge_layer(
    model: torch.nn.Module, name: str, adapter: Adapter, low: torch.Tensor, high: torch.Tensor
) -> None:
    """Add one product to the weight of one linear layer.

    Raises:
        AttributeError: There is no such layer.
        ValueError: It is none that LoRA fits, or the numbers are none that training makes.
    """
    layer = model.get_submodule(name)
    if not isinstance(layer, torch.nn.Linear):
        raise ValueError(f"it is {type(layer).__name__}; expected a linear layer")
    weight = layer.weight
    rows, columns = weight.shape
    expected = ((adapter.rank, columns), (rows, adapter.rank))
    if (tuple(low.shape), tuple(high.shape)) != expected:
        raise ValueError(
            f"lora_A and lora_B have shapes {tuple(low.shape)} and {tuple(high.shape)}; expected "
            f"{expected[0]} and {expected[1]}"
        )
    change = adapter.scale * (high @ low)
    size, weight_size = float(change.norm()), float(weight.float().norm())
    if not size <= _LARGEST_CHANGE * weight_size:
        raise ValueError(
            f"it would change weights of size {weight_size:.3g} by {size:.3g}; expected finite numbers, "
            f"and at most {_LARGEST_CHANGE:.0f} times the weights"
        )
    weight.add_(change.to(weight.device, weight.dtype))
