"""What the README tells a user to do works as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _quick_start() -> str:
    found = re.search(r"<!-- quick-start -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, "the README has lost its quick start"
    return found[1]


def _run_quick_start(folder: Path) -> list[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _quick_start()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_quick_start_runs_as_written_and_again_without_doubles(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "late.txt").write_text(
        "Late chunking adds context to a chunk. It reads the whole document before it cuts.\n\n"
        "It costs one pass over the text.",
        encoding="utf-8",
    )
    cooking = folder / "cooking.txt"
    cooking.write_text("Onions are fried in butter until they are golden.", encoding="utf-8")
    lines = _run_quick_start(tmp_path)
    score, start, _, *text = lines[0].split()
    assert float(score) > 0.3
    assert start == "0"
    assert " ".join(text).startswith("Late chunking adds context")
    assert (tmp_path / "qdrant-data").is_dir()
    assert len(lines) == 2

    cooking.write_text("Onions are peeled and cut.", encoding="utf-8")
    again = _run_quick_start(tmp_path)
    assert again[0] == lines[0]
    assert len(again) == 2, "a second run doubled the documents, or kept what an edited one no longer says"
    assert "peeled and cut" in again[1]


def test_quick_start_is_short() -> None:
    assert len(_quick_start().splitlines()) <= 15
    assert len(README.splitlines()) < 200


def test_every_make_target_and_file_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} is not in the Makefile"
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), f"{link} does not exist"
