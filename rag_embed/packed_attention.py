"""Packed texts: the attention that they need, each to itself alone, and what fills a pass up behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

PACKED_ATTENTION = "rag_embed_packed"
"""The name under which transformers' models find it."""
_FILLER_TOKENS = 32
_Item = TypeVar("_Item")


def attend_within_texts(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens head_dim"],
    key: Float[Tensor, "1 key_heads tokens head_dim"],
    value: Float[Tensor, "1 key_heads tokens head_dim"],
    attention_mask: Tensor | None,
    *,
    text_lengths: Sequence[int],
    unseen_tokens: int = 0,
    scaling: float | None = None,
    **_unused: object,
) -> tuple[Float[Tensor, "1 tokens heads head_dim"], None]:
    """Attention inside each of the packed texts; neighbours of one length go through in one call.

    The last `unseen_tokens` of each text attend to the others, and no token attends to them.
    """
    groups = [(length, len(list(same_length))) for length, same_length in groupby(text_lengths)]
    sizes = [length * count for length, count in groups]
    # Split and joined, not sliced and assigned: the gradient of a slice is as large as all texts together.
    split = (states[0].split(sizes, dim=1) for states in (query, key, value))
    attended = []
    for (length, count), *states in zip(groups, *split, strict=True):
        queries, keys, values = (part.unflatten(1, (count, length)).transpose(0, 1) for part in states)
        result = torch.nn.functional.scaled_dot_product_attention(
            queries,
            keys[:, :, : length - unseen_tokens],
            values[:, :, : length - unseen_tokens],
            scale=scaling,
            is_causal=bool(getattr(module, "is_causal", False)),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        attended.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


def group_passes(items: Iterable[tuple[_Item, int]], limit: int) -> Iterator[tuple[list[_Item], int]]:
    """Group items, each with its tokens, into passes of at most `limit` tokens; a longer one is a pass.

    Yields:
        Items in order, and how many tokens they have together.
    """
    batch: list[_Item] = []
    size = 0
    for item, length in items:
        if batch and size + length > limit:
            yield batch, size
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch, size


def fill_pass(token_count: int) -> list[Int[np.ndarray, " _"]]:
    """Make texts of so many tokens in all, which are computed and thrown away."""
    starts = range(0, token_count, _FILLER_TOKENS)
    return [np.zeros(min(_FILLER_TOKENS, token_count - start), dtype=np.int64) for start in starts]


AttentionInterface.register(PACKED_ATTENTION, attend_within_texts)
AttentionMaskInterface.register(PACKED_ATTENTION, lambda *_, **__: None)
