"""One adapter out of several that were trained apart: the mean of what they change.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", arXiv:2203.05482, section 2, the uniform soup. Differs in: what is averaged are
low-rank products. Their mean is one too: the factors side by side, so that its rank is the sum of the ranks,
or the nearest of a smaller rank (Eckart & Young 1936, "The approximation of one matrix by another of lower
rank"), which the mean of many needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from rag_embed.adapter import CARD_FILE, CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE, Adapter
from rag_embed.errors import InputError
from rag_embed.training.run_folder import RunFolder

_UP, _DOWN = "lora_B.weight", "lora_A.weight"
"""Ends of the names of a product's factors."""


def average_adapters(
    adapters: Sequence[Adapter],
    folder: Path,
    *,
    window_tokens: int,
    rank: int | None = None,
    card: Mapping[str, object] | None = None,
) -> Path:
    """Write the mean of adapters of one encoder.

    Args:
        adapters: Of the same layers; their ranks may differ.
        folder: For the mean.
        window_tokens: Length of the windows that it is used with.
        rank: Of the mean, if that is to be smaller than the sum of the ranks.
        card: What its card says beside the cards of its parts.

    Returns:
        The folder, which `ContextualEmbedding(adapter=...)` takes.

    Raises:
        InputError: There is no adapter, they are of different encoders or layers, or the folder cannot be
            written or holds another adapter.
    """
    parts = [load_file(adapter.folder / WEIGHTS_FILE) for adapter in adapters]
    kinds = {
        (adapter.base_sha256, adapter.shared_layers, *sorted(part))
        for adapter, part in zip(adapters, parts, strict=True)
    }
    if len(kinds) != 1:
        raise InputError(
            f"{len(adapters)} adapters of {len(kinds)} kinds; expected one or more that change the same "
            "layers of the same encoder. Train them with one model and the same shared_layers"
        )
    ranks = sum(adapter.rank for adapter in adapters)
    rank = ranks if rank is None else min(rank, ranks)
    digest = hashlib.sha256(json.dumps([window_tokens, rank, *(each.sha256 for each in adapters)]).encode())
    run_folder = RunFolder(folder, digest=digest.hexdigest())
    if run_folder.is_finished():
        return folder
    cards = [_read(adapter.folder / CARD_FILE) for adapter in adapters]
    kept: dict[str, object] = {
        key: cards[0][key] for key in ("base", "head_tokens", "shared_layers") if key in cards[0]
    }
    weights: dict[str, torch.Tensor] = {}
    for name in parts[0]:
        if name.endswith(_DOWN):
            stem = name.removesuffix(_DOWN)
            mean = _join([part[stem + _UP] for part in parts], [part[name] for part in parts], adapters)
            # By its name in the model, as training has it.
            names = [(stem + factor).removeprefix(PEFT_PREFIX) for factor in (_UP, _DOWN)]
            weights |= zip(names, _shorten(*mean, rank=rank), strict=True)
    run_folder.write_adapter(
        weights,
        config={**_read(adapters[0].folder / CONFIG_FILE), "r": rank, "lora_alpha": rank},
        card={**(card or {}), **kept, "window_tokens": window_tokens, "mean_of": cards},
    )
    return folder


def _join(
    ups: Sequence[Float[Tensor, "out _"]], downs: Sequence[Float[Tensor, "_ in"]], adapters: Sequence[Adapter]
) -> tuple[Float[Tensor, "out ranks"], Float[Tensor, "ranks in"]]:
    """Put factors side by side; those that go up take the adapters' own scales, so that the mean's is 1."""
    scales = [adapter.scale / len(adapters) for adapter in adapters]
    up = torch.cat([scale * factor.float() for scale, factor in zip(scales, ups, strict=True)], dim=1)
    return up, torch.cat([factor.float() for factor in downs], dim=0)


def _shorten(
    up: Float[Tensor, "out ranks"], down: Float[Tensor, "ranks in"], *, rank: int
) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
    """Find factors of the nearest product of a smaller rank."""
    if rank == len(down):
        return up, down
    # The product itself may be large; its two thin factors have all its singular values.
    from_left, left = torch.linalg.qr(up.double())
    from_right, right = torch.linalg.qr(down.double().T)
    u, lengths, v = torch.linalg.svd(left @ right.T)
    root = lengths[:rank].sqrt()
    return (from_left @ (u[:, :rank] * root)).float(), (root[:, None] * v[:rank] @ from_right.T).float()


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
