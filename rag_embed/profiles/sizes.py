"""The numbers of a config.json: whether they can be those of the weights beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from rag_embed.errors import UnsupportedModelError

_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers")
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "num_key_value_heads")
_WIDTHS = ("hidden_size", "dim", "d_model", "intermediate_size", "hidden_dim", "d_ff", "head_dim", "d_kv")
_COUNTS = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_LARGEST = 10_000_000


def check_sizes(config: Mapping[str, object], *, name: str, tensor_count: int, dim: int) -> None:
    """Refuse numbers that no checkpoint has, before a model of that size is built.

    Args:
        config: A checkpoint's config.json.
        name: Of the checkpoint, for messages.
        tensor_count: How many tensors its weights hold; a layer has one at least.
        dim: Size of its states; no model has more heads.

    Raises:
        UnsupportedModelError: A number is no whole number, not positive, or too large.
    """
    limits = {
        **_bound(_LAYERS, tensor_count, f"the {tensor_count} tensors of its weights"),
        **_bound(_HEADS, dim, f"its {dim} dimensions"),
        **_bound(chain(_WIDTHS, _COUNTS), _LARGEST, f"{_LARGEST:,}"),
    }
    for key, (largest, reason) in limits.items():
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
            raise UnsupportedModelError(
                f"config.json of {name} has {key} {str(value)[:40]!r}; expected a whole number from 1 to "
                f"{reason}. The file is damaged, or belongs to another model"
            )


def _bound(keys: Iterable[str], largest: int, reason: str) -> Mapping[str, tuple[int, str]]:
    return dict.fromkeys(keys, (largest, reason))
