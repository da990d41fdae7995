"""Render the result files into the marked tables of docs/benchmarks.md and README.md.

A table stands between `<!-- results:NAME -->` and `<!-- /results -->`; the prose around it is hand-written.
What is not measured yet leaves its place empty. With `--check` nothing is written, and the exit status says
whether a file differs from its results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import RESULTS, ROOT
from benchmarks.tables import TABLES, Result

FILES = (
    "docs/benchmarks.md",
    "docs/chat-page.md",
    "docs/chat.md",
    "docs/decisions/one-pass.md",
    "docs/decisions/reranking.md",
    "docs/evaluation.md",
    "docs/migration.md",
    "docs/models.md",
    "docs/scaling.md",
    "docs/training.md",
    "README.md",
)


def fill_tables(text: str, results: Mapping[str, Result]) -> str:
    """A text with its marked tables replaced.

    Raises:
        ValueError: A marker names no table.
    """

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; expected one of {', '.join(TABLES)}")
        return f"<!-- results:{name} -->\n{render_table(name, results)}<!-- /results -->"

    return re.sub(r"<!-- results:(\w+) -->\n.*?<!-- /results -->", fill, text, flags=re.DOTALL)


def render_table(name: str, results: Mapping[str, Result]) -> str:
    """A table with a line that says where it comes from."""
    source, make = TABLES[name]
    if source not in results:
        return ""
    result = results[source]
    machine = result["machine"]
    return (
        f"{make(result)}\n\n"
        f"`{result['command']}` at {result['commit']}, {result['date']}. Model: {result['model']}. "
        f"Data: {result['data']}. n = {result['n']:,}; interval: {result['interval']}. "
        f"Machine: {machine['accelerator'] or machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, {machine['instructions']}, torch {machine['torch']}.\n"
    )


def load_results(folder: Path) -> dict[str, Result]:
    """All results of full runs."""
    loaded = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {result["name"]: result for result in loaded if not result["is_quick"]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a file is out of date")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md and docs")
    options = parser.parse_args(argv)
    results = load_results(options.results)
    is_stale = False
    for path in (options.root / name for name in FILES):
        text = path.read_text(encoding="utf-8")
        rendered = fill_tables(text, results)
        if rendered == text:
            continue
        is_stale = True
        if options.check:
            print(f"{path.name} differs from its results; run python -m benchmarks.render")
        else:
            path.write_text(rendered, encoding="utf-8")
            print(f"{path.name} rendered")
    return int(options.check and is_stale)


if __name__ == "__main__":
    sys.exit(main())
