"""A layer of the head that makes token vectors of token states, as sentence-transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from rag_embed.errors import UnsupportedModelError
from rag_embed.profiles.files import check_files, read_json

Activation: TypeAlias = Literal["Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"]
"""Classes of torch's that may stand behind a layer, as they are without arguments."""

STATES = "token_embeddings"
"""sentence-transformers' name of what goes from module to module."""

_LARGEST_DIM = 100_000


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One layer of a head.

    Attributes:
        weights: File of its tensors `linear.weight`, `linear.bias` and `residual.weight`.
        in_dim: Size of what it takes.
        out_dim: Size of what it gives.
        has_bias: Whether there is a bias.
        activation: Stands behind it.
        is_residual: Whether its input is added to its output, through a layer of its own if sizes differ.
        is_alone: Whether the file holds nothing else.
    """

    weights: Path
    in_dim: int
    out_dim: int
    has_bias: bool = False
    activation: Activation = "Identity"
    is_residual: bool = False
    is_alone: bool = True


def read_layer(folder: Path, before: DenseLayer | None) -> DenseLayer:
    """Read what a Dense module declares.

    Args:
        folder: Of the module.
        before: The layer whose vectors it takes; None if it takes token states.

    Raises:
        UnsupportedModelError: A file is missing or damaged, or asks for something that is not done here.
    """
    check_files(folder)
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(path)
    in_dim, out_dim = (_read_dim(path, config, key) for key in ("in_features", "out_features"))
    if before is not None and before.out_dim != in_dim:
        raise UnsupportedModelError(
            f"{path} takes vectors of {in_dim} dimensions; the layer before it gives {before.out_dim}. "
            "Expected layers that fit each other: they belong to different models, or are in a wrong order"
        )
    if not reads_states(path, STATES):
        raise UnsupportedModelError(
            f"{path} reads {config.get('module_input_name')!r} and writes "
            f"{config.get('module_output_name')!r}; expected {STATES!r} twice, because it projects tokens"
        )
    if not weights.is_file():
        raise UnsupportedModelError(
            f"{folder} holds no model.safetensors; expected the weights of the layer. Convert the "
            "checkpoint: other formats can run code when they are loaded"
        )
    named = str(config.get("activation_function"))
    activation = named.rsplit(".", 1)[-1]
    if not named.startswith("torch.nn.") or activation not in get_args(Activation):
        raise UnsupportedModelError(
            f"{path} has activation_function {named!r}; expected one of torch.nn's "
            f"{', '.join(get_args(Activation))}. Code of a checkpoint is not run"
        )
    switches = {key: config.get(key, default) for key, default in (("bias", True), ("use_residual", False))}
    if wrong := [key for key, value in switches.items() if not isinstance(value, bool)]:
        raise UnsupportedModelError(f"{path} has {wrong[0]} {switches[wrong[0]]!r}; expected true or false")
    return DenseLayer(
        weights,
        in_dim,
        out_dim,
        has_bias=bool(switches["bias"]),
        activation=cast("Activation", activation),
        is_residual=bool(switches["use_residual"]),
    )


def _read_dim(path: Path, config: Mapping[str, object], key: str) -> int:
    dim = config.get(key)
    if isinstance(dim, bool) or not isinstance(dim, int) or not 0 < dim <= _LARGEST_DIM:
        raise UnsupportedModelError(
            f"{path} has {key} {str(dim)[:40]!r}; expected a whole number from 1 to {_LARGEST_DIM:,}. The "
            "file is damaged, or belongs to another module"
        )
    return dim


def reads_states(path: Path, default: str) -> bool:
    """Whether a module takes and gives token states. Dense layers of a multi-vector model do by default."""
    config = read_json(path, default={})
    source = config.get("module_input_name", default)
    return source == STATES and (config.get("module_output_name") or source) == STATES
