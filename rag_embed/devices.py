"""Which processor computes, and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Precision of weights and states; "auto" is float32 on a CPU and bfloat16 on accelerators that have it."""


def pick_device() -> str:
    """Name the accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def pick_dtype(device: torch.device) -> torch.dtype:
    """Pick the precision that "auto" stands for.

    On a CPU it is float32, whatever the CPU could do: the same index comes out on every machine. bfloat16 on
    CPUs with instructions for it is about 2.5 times as fast and changes the vectors by up to 3e-3
    (docs/benchmarks.md, "Precision"); it is chosen by name. Accelerators take bfloat16 where they compute it
    natively. float16 overflows in several encoders, so it is never picked by itself.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def pick_batch_tokens(device: torch.device) -> int:
    """Pick how many tokens a forward pass over several texts has where nobody says.

    A CPU is busy with a thousand tokens, whose states its caches still hold. An accelerator spends several
    milliseconds on starting a pass, whatever is in it (docs/benchmarks.md, "On an accelerator").
    """
    return 1024 if device.type == "cpu" else 16384


def describe_auto() -> str:
    """What "auto" stands for on this machine, in words."""
    device = pick_device()
    return f"auto ({str(pick_dtype(torch.device(device))).removeprefix('torch.')} on this machine's {device})"


def has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without them it is 100 times slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
