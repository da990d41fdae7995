"""The tables of `backends.py`: the encoder in other libraries, and our own passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import format_interval, format_ratio, make_table

Result = Mapping[str, Any]


def backends(result: Result) -> str:
    """Other libraries and int8: speed against ours, how far vectors turn, what retrieval loses."""
    results = result["results"]
    sets = results["sets"]
    header = ["", "tokens/s, windows", "× ours", "tokens/s, chunks", "× ours"]
    header += ["cosine of chunks, mean", "least", "in windows, mean", "least"]
    header += [f"nDCG@10, {name}" for name in sets]
    rows: list[list[object]] = []
    for name, entry in results["backends"].items():
        if "missing" in entry:
            rows.append([f"{name}: {entry['missing']}", *["–"] * (len(header) - 1)])
            continue
        speeds = [
            part
            for kind in ("windows", "chunks")
            for part in (f"{entry[kind]['tokens_per_s']:,}", format_ratio(entry[kind]["speed"]))
        ]
        angles = [f"{x:.4f}" for kind in ("chunks", "stretches") for x in entry["cosine"][kind]]
        differences = [format_interval(entry["sets"][of]["difference"], 4, is_signed=True) for of in sets]
        if name == next(iter(results["backends"])):
            differences = [f"{entry['sets'][of]['ndcg_10']:.4f}" for of in sets]
        rows.append([name, *speeds, *angles, *differences])
    windows, chunks = results["windows"], results["chunks"]
    asked = "".join(f"; {name}: {of['queries']} queries, {of['chunks']} chunks" for name, of in sets.items())
    return (
        f"{make_table(header, rows)}\n\n{windows['count']} windows of {windows['tokens']} tokens; "
        f"{chunks['count']} chunks alone, {chunks['tokens']:,} tokens{asked}."
    )


def passes(result: Result) -> str:
    """Our passes over windows: tokens per second by windows in a pass and threads."""
    found: dict[int, list[str]] = {}
    for row in result["results"]["passes"]:
        ratio = format_ratio(row["speed"])
        found.setdefault(row["windows_per_pass"], []).extend([f"{row['tokens_per_s']:,}", ratio])
    threads = dict.fromkeys(row["threads"] for row in result["results"]["passes"])
    header = ["windows in a pass"]
    header += [part for n in threads for part in (f"tokens/s, threads: {n}", "× one window")]
    return make_table(header, [[per_pass, *parts] for per_pass, parts in found.items()])
