"""What the design says about modules: imports, names, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rag_embed

ROOT = Path(rag_embed.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
RING_1 = {
    "errors",
    "fusion",
    "max_sim",
    "query_map",
    "stage_scores",
    "stamp",
    "spans",
    "windows",
    "chunk_windows",
    "pooling",
    "prompts",
    "modes",
    "surrogates",
    "tokens",
    "vector_form",
}
RING_2 = {
    "profiles",
    "adapter",
    "devices",
    "guards",
    "jina_bert",
    "packed_attention",
    "text_tokenizer",
    "prefix_markers",
    "scored_tokens",
    "token_head",
    "checkpoint",
    "encoder",
    "loading",
    "passes",
    "shared_layers",
    "shared_reading",
    "window_cache",
    "native",
    "late_chunking",
    "late_interaction",
    "vector_space",
    "recipe",
    "served",
    "export",
    "chunked_text",
    "document_reading",
    "chunk_embedder",
    "listwise",
}
ADAPTERS = {"llama_index", "qdrant_client", "qdrant_edge"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "core"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """Name the module or subpackage directly below `rag_embed`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Every module that is imported anywhere in a file, inside functions and type checks included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(path) if name.startswith("rag_embed.")}


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


INNER = [path for path in MODULES if part_of(path) in RING_1 | RING_2]


def test_the_rings_are_complete() -> None:
    assert {part_of(path) for path in INNER} == RING_1 | RING_2
    outer = {part_of(path) for path in MODULES} - RING_1 - RING_2
    assert outer <= {
        "__init__",
        "__main__",
        "llamaindex",
        "qdrant",
        "evaluation",
        "training",
        "files",
        "indexes",
        "chat",
        "serving",
        "cli",
        "web",
        "testing",
    }


@pytest.mark.parametrize("path", INNER, ids=name_of)
def test_imports_go_inwards_only(path: Path) -> None:
    ring = RING_1 if part_of(path) in RING_1 else RING_1 | RING_2
    assert imported_parts(path) <= ring
    assert not imported_packages(path) & (ADAPTERS | {"pydantic", "typer", "rich"})


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in RING_1], ids=name_of)
def test_the_innermost_ring_knows_no_models(path: Path) -> None:
    assert not imported_packages(path) & {"transformers", "tokenizers", "safetensors", "huggingface_hub"}


def test_the_store_knows_no_encoder() -> None:
    for path in MODULES:
        if part_of(path) == "qdrant":
            assert not imported_parts(path) & RING_2, name_of(path)


def test_evaluation_stands_on_the_adapters() -> None:
    for path in MODULES:
        if part_of(path) == "evaluation":
            assert not imported_parts(path) & {"chat", "serving", "web"}, name_of(path)
        elif part_of(path) in {"llamaindex", "qdrant"}:
            outer = {"evaluation", "training", "files", "indexes", "chat", "serving", "web"}
            assert not imported_parts(path) & outer, name_of(path)


def test_nothing_stands_on_the_command_line() -> None:
    for path in MODULES:
        if part_of(path) not in {"cli", "__main__"}:
            assert "cli" not in imported_parts(path), name_of(path)
            assert not imported_packages(path) & {"typer", "rich"}, name_of(path)


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "chat"], ids=name_of)
def test_a_conversation_knows_no_user_interface(path: Path) -> None:
    """Command line, web page and agents stand on it; it stands on the adapters."""
    allowed = RING_1 | RING_2 | {"llamaindex", "qdrant", "chat"}
    assert imported_parts(path) <= allowed
    assert not imported_packages(path) & {"typer", "rich", "chainlit", "mcp"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "tokenizers", "numpy", "pydantic"} | ADAPTERS
    code = f"import sys, rag_embed; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


def test_public_names_are_all_there_and_no_others() -> None:
    assert rag_embed.__all__ == sorted(rag_embed.__all__)
    assert set(rag_embed._HOMES) == set(rag_embed.__all__)
    for name in rag_embed.__all__:
        assert getattr(rag_embed, name).__name__ == name
    assert set(rag_embed.__all__) <= set(dir(rag_embed))
    checked = next(
        node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If)
    )
    assert {alias.name for node in checked.body for alias in node.names} == set(rag_embed.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        rag_embed.nonesuch  # noqa: B018


def test_every_error_is_raised_somewhere() -> None:
    from tests.test_errors import defined_classes, drawn_tree

    source = "\n".join(path.read_text(encoding="utf-8") for path in MODULES if path.name != "errors.py")
    leaves = set(defined_classes()) - {base for bases in drawn_tree().values() for base in bases}
    assert {name for name in leaves if f"{name}(" not in source} == set()


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) != "cli"], ids=name_of)
def test_nothing_but_the_command_line_prints(path: Path) -> None:
    calls = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    assert ast.get_docstring(ast.parse(text)), "a module without docstring"
    assert path.stem not in VAGUE_NAMES
    assert path.parent.name not in VAGUE_NAMES


CLI = [path for path in MODULES if part_of(path) == "cli"]


def functions_of(path: Path) -> list[ast.FunctionDef]:
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in found if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", CLI, ids=name_of)
def test_a_command_reads_arguments_and_hands_over(path: Path) -> None:
    """Arguments, one call of the library, a presenter: what takes more lines belongs into the library."""
    for function in functions_of(path):
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno + 1 <= 60, function.name


@pytest.mark.parametrize("path", CLI, ids=name_of)
def test_no_file_of_the_command_line_both_computes_and_shows(path: Path) -> None:
    """Who shows something imports neither numbers, encoders nor the parsers and stores that do the work."""
    if not imported_packages(path) & {"typer", "rich"}:
        return
    top = ast.parse(path.read_text(encoding="utf-8")).body
    eager = {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}
    eager |= {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    assert not {name.split(".")[0] for name in eager} & {"torch", "numpy", "llama_index", "qdrant_client"}
    computing = {"claiming", "comparing", "describing", "filling", "opening", "reading"}
    assert not eager & {f"rag_embed.cli.{name}" for name in computing}


BESIDE = sorted(
    path for name in ("benchmarks", "corpora", "recipes") for path in (ROOT.parent / name).glob("*.py")
)
STRANGERS = {"recipes": {"benchmarks"}, "benchmarks": {"recipes"}, "corpora": {"benchmarks", "recipes"}}


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_recipes_and_benchmarks_do_not_know_each_other(path: Path) -> None:
    """What both need is in `corpora`; and every module of ours that is imported is there."""
    assert not imported_packages(path) & STRANGERS[path.parent.name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in STRANGERS:
            place = ROOT.parent / node.module.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").is_file(), node.module


def test_the_package_knows_nothing_beside_it() -> None:
    for path in MODULES:
        assert not imported_packages(path) & (set(STRANGERS) | {"tests"}), name_of(path)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()


def test_shapes_are_checked_in_tests_only() -> None:
    code = (
        "import torch, rag_embed.pooling as p\n"
        "p.normalise(torch.ones(2, 2, 2))\n"
        "import sys; assert 'beartype' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
