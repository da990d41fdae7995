"""What every result file says of itself: command, commit, model, data, n, interval, machine, date."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_embed.evaluation.bootstrap import RESAMPLES
from rag_embed.evaluation.machine import describe_machine

if TYPE_CHECKING:
    from rag_embed import ContextualEmbedding

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CACHE = ROOT / "benchmarks" / ".cache"
QUICK_RESULTS = CACHE / "quick"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny inputs; kept apart from the real results")
    parser.add_argument("--results", type=Path, default=None, help="folder of the result files")
    return parser


def write_report(
    name: str,
    options: argparse.Namespace,
    *,
    model: str,
    data: str,
    n: int,
    interval: str,
    results: Mapping[str, object],
) -> Path:
    """Write NAME.json; a quick run never overwrites measured results.

    Args:
        name: The script.
        options: Parsed with `make_parser`; what differs from the defaults makes the command.
        model: Which weights, or "none".
        data: What was measured on.
        n: How many items the figures are averages of.
        interval: What the intervals in the results mean.
        results: The figures.

    Returns:
        The file.
    """
    folder = options.results or (QUICK_RESULTS if options.quick else RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": name,
        "command": _command(name, options),
        "is_quick": options.quick,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "model": model,
        "data": data,
        "n": n,
        "interval": interval,
        "machine": describe_machine(),
        "results": results,
    }
    path: Path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{name}: written ({'quick' if options.quick else 'full'} run)")
    return path


def describe_model(model: ContextualEmbedding) -> str:
    """Which weights: the checkpoint, its adapter and the precision."""
    adapter = model.located_adapter
    adapter_name = f"{adapter.name} {adapter.sha256[:12]}" if adapter else "none"
    return f"{model.profile.name}, adapter {adapter_name}, {model.dtype}"


def write_set_report(
    name: str, options: argparse.Namespace, *, model: str, results: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write what was measured on retrieval sets; if none was found, say so and write nothing.

    Args:
        name: The script.
        options: As for `write_report`.
        model: Which weights.
        results: By set, each with the number of its `queries`.
    """
    if not results:
        print(f"{name}: nothing measured, no set was found")
        return
    write_report(
        name,
        options,
        model=model,
        data=", ".join(results),
        n=sum(found["queries"] for found in results.values()),
        interval=f"95 % paired bootstrap over queries, {RESAMPLES} resamples",
        results=results,
    )


def _command(name: str, options: argparse.Namespace) -> str:
    if options.quick:
        return f"python -m benchmarks.{name} --quick"
    words = [f"python -m benchmarks.{name}"]
    for key, value in vars(options).items():
        if key not in {"quick", "results"} and value is not None:
            words += [f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return " ".join(words)


def _commit() -> str:
    """Commit of the code measured; "+changes" if the code differs from it."""
    commit = _output_of("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    is_changed = _output_of("git", "status", "--porcelain", "--", "rag_embed", ":(glob)benchmarks/*.py")
    return commit + ("+changes" if is_changed else "")


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
