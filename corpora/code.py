"""Training pairs out of Python source: what a docstring says, and the code without the docstring."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path

from rag_embed import CharSpan
from rag_embed.training.documents import TrainingDocument

_CHUNK_CHARS = 800
_SKIPPED = {"test", "tests", "site-packages", "idlelib"}
_QUESTIONS = {
    "function": (
        "What does the function {name} do?",
        "How does {name} work?",
        "Where is {name} implemented?",
    ),
    "class": (
        "What is the purpose of the {name} class?",
        "What is {name} used for?",
        "How is the class {name} defined?",
    ),
}


def read_code_files(folder: Path, *, source: str, limit: int) -> list[TrainingDocument]:
    """Read Python files below a folder, in random order, until enough of them gave pairs.

    Args:
        folder: Of the source tree.
        source: Name of the source.
        limit: Most documents.
    """
    paths = sorted(p for p in folder.rglob("*.py") if not _SKIPPED & set(p.relative_to(folder).parts))
    random.Random(0).shuffle(paths)
    documents: list[TrainingDocument] = []
    for path in paths:
        if len(documents) == limit:
            break
        document = read_code_file(path, str(path.relative_to(folder.parent)), source)
        if document is not None:
            documents.append(document)
    return documents


def read_code_file(path: Path, name: str, source: str) -> TrainingDocument | None:
    """One file without its docstrings; None where fewer than two definitions are documented."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (UnicodeDecodeError, SyntaxError):
        return None
    generator = random.Random(name)
    lines = text.splitlines(keepends=True)
    asked: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        docstring = _docstring_of(node)
        if docstring is None:
            continue
        for line in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
            lines[line] = ""
        if isinstance(node, ast.Module) or node.name.startswith("_"):
            continue
        asked.append((_question(node, docstring.value.value, generator), node.lineno - 1))
    if len(asked) < 2:
        return None
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    stripped = "".join(lines)
    spans = list(_cut(stripped))
    pairs = tuple(
        (question, _chunk_at(spans, starts[line])) for question, line in sorted(asked, key=lambda a: a[1])
    )
    head = f"file_path: {name}\n\n" if generator.random() < 0.5 else ""
    return TrainingDocument(f"{source}/{name}", stripped, tuple(spans), pairs, head, source)


def _docstring_of(node: ast.AST) -> ast.Expr | None:
    if (
        not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        or len(node.body) < 2
    ):
        return None
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    # A docstring that shares a line with code stays.
    return first if is_text and node.body[1].lineno > (first.end_lineno or 0) else None


def _question(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, docstring: str, generator: random.Random
) -> str:
    summary = re.split(r"(?<=[.!?])\s|\n\s*\n", docstring.strip(), maxsplit=1)[0]
    summary = " ".join(summary.split())
    if generator.random() < 0.35 or not 12 <= len(summary) <= 200:
        kind = "class" if isinstance(node, ast.ClassDef) else "function"
        return generator.choice(_QUESTIONS[kind]).format(name=node.name)
    return summary


def _cut(text: str) -> Iterator[CharSpan]:
    """Cut at lines, before a definition where possible."""
    start = end = 0
    for line in text.splitlines(keepends=True):
        is_definition = line.lstrip().startswith(("def ", "class ", "async def ", "@"))
        too_long = end + len(line) - start > _CHUNK_CHARS
        if text[start:end].strip() and (too_long or (is_definition and end - start > _CHUNK_CHARS / 2)):
            yield CharSpan(start, end)
            start = end
        end += len(line)
    if text[start:end].strip():
        yield CharSpan(start, end)


def _chunk_at(spans: list[CharSpan], position: int) -> int:
    return next(index for index, span in enumerate(spans) if position < span.end)
