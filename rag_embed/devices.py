"""Which processor computes, and in which precision."""

from __future__ import annotations

import torch


def pick_device() -> str:
    """Name the accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def pick_dtype(device: torch.device) -> torch.dtype:
    """Pick the fastest precision whose range is float32's.

    bfloat16 on a CPU without instructions for it runs a hundred times slower than float32; float16 overflows
    in several encoders, so it is never picked by itself.
    """
    if device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        is_native = False
    return torch.bfloat16 if is_native else torch.float32
