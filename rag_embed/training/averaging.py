"""One adapter out of several that were trained apart: the mean of what they change.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", arXiv:2203.05482, section 2, the uniform soup. Differs in: what is averaged are
low-rank products, and the mean stays one: the factors side by side, so that its rank is the sum of the ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rag_embed.adapter import CARD_FILE, CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE, Adapter
from rag_embed.errors import InputError
from rag_embed.training.run_folder import RunFolder


def average_adapters(
    adapters: Sequence[Adapter], folder: Path, *, window_tokens: int, card: Mapping[str, object] | None = None
) -> Path:
    """Write the mean of adapters of one encoder.

    Args:
        adapters: Of the same layers; their ranks may differ.
        folder: For the mean.
        window_tokens: Length of the windows that it is used with.
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
    rank = sum(adapter.rank for adapter in adapters)
    digest = hashlib.sha256(json.dumps([window_tokens, *(each.sha256 for each in adapters)]).encode())
    run_folder = RunFolder(folder, digest=digest.hexdigest())
    if run_folder.is_finished():
        return folder
    cards = [_read(adapter.folder / CARD_FILE) for adapter in adapters]
    kept: dict[str, object] = {
        key: cards[0][key] for key in ("base", "head_tokens", "shared_layers") if key in cards[0]
    }
    run_folder.write_adapter(
        {
            # By its name in the model, as training has it.
            name.removeprefix(PEFT_PREFIX): _join(name, adapters, parts)
            for name in parts[0]
        },
        config={**_read(adapters[0].folder / CONFIG_FILE), "r": rank, "lora_alpha": rank},
        card={**(card or {}), **kept, "window_tokens": window_tokens, "mean_of": cards},
    )
    return folder


def _join(
    name: str, adapters: Sequence[Adapter], parts: Sequence[Mapping[str, torch.Tensor]]
) -> torch.Tensor:
    """Put factors side by side; lora_B takes the adapters' own scales, so that the mean's is 1."""
    if name.endswith("lora_A.weight"):
        return torch.cat([part[name].float() for part in parts], dim=0)
    scales = [adapter.scale / len(adapters) for adapter in adapters]
    return torch.cat([scale * part[name].float() for scale, part in zip(scales, parts, strict=True)], dim=1)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
