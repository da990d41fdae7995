"""The machine that measured, without its name or address."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def describe_machine() -> dict[str, object]:
    """Describe processor, threads, accelerator and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 1),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _ask_sysctl() or platform.processor()
    fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    model, family = fields.get("model name", platform.machine()), fields.get("cpu family", "?")
    return f"{model.strip()} (family {family.strip()})"


def _ask_sysctl() -> str:
    """Name the processor of a Mac."""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
