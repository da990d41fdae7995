"""Small words of the probes: files, what is stored, and what a command said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from typer.testing import Result

from rag_embed import QdrantChunkStore


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files, making the folders they are in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def node(id_: str, *, document: str = "doc", text: str = "Text.", **metadata: Any) -> TextNode:
    """A chunk that any store takes; its vector follows from its id."""
    return TextNode(
        id_=id_,
        text=text,
        metadata=metadata,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)},
        embedding=[1.0, float(sum(id_.encode()) % 7), 0.5, 0.25],
    )


def texts(store_folder: Path) -> dict[str, str]:
    """The text that each document of the command line's collection has."""
    found: dict[str, str] = {}
    with QdrantChunkStore("documents", path=store_folder) as store:
        for chunk in sorted(store.get_nodes(), key=lambda n: getattr(n, "start_char_idx", 0) or 0):
            found[str(chunk.ref_doc_id)] = found.get(str(chunk.ref_doc_id), "") + chunk.get_content()
    return found


def one_message(result: Result) -> str:
    """Check that a command failed with one message and no traceback; return the message on one line."""
    assert isinstance(result.exception, SystemExit), f"raised {result.exception!r}"
    assert result.exit_code != 0
    said = " ".join(result.stderr.replace("│", " ").split())
    starts = [line for line in result.stderr.splitlines() if line.startswith(("error: ", "╭─ Error"))]
    assert len(starts) == 1, said
    assert "Traceback" not in said
    return said


def as_json(result: Result) -> Any:
    """What a command wrote for programs."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return json.loads(result.stdout)


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    """Change values of a JSON file."""
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | dict(changes)), encoding="utf-8"
    )
