"""The exception tree is the one that is drawn."""

from __future__ import annotations

import builtins
import inspect
import re

import pytest

from rag_embed import errors


def drawn_tree() -> dict[str, list[str]]:
    """Read name and bases of each class off the drawing in the module's docstring."""
    bases: dict[str, list[str]] = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([ │├└─]*)(\w+)( \((\w+)\))?(  .*)?$", line)
        if not found or not found[2].endswith("Error"):
            continue
        depth = (len(found[1]) + 1) // 4
        parents[depth] = found[2]
        bases[found[2]] = [
            *([parents[depth - 1]] if depth > 1 else ["Exception"]),
            *([found[4]] if found[4] else []),
        ]
    return bases


def defined_classes() -> dict[str, type[Exception]]:
    return dict(
        inspect.getmembers(
            errors, lambda member: inspect.isclass(member) and member.__module__ == errors.__name__
        )
    )


def test_every_class_is_drawn_where_it_stands() -> None:
    found = {name: [base.__name__ for base in cls.__bases__] for name, cls in defined_classes().items()}
    assert found == drawn_tree()
    assert len(found) > 15


@pytest.mark.parametrize("name", defined_classes())
def test_every_error_is_one_of_ours_and_can_be_raised(name: str) -> None:
    cls = defined_classes()[name]
    assert issubclass(cls, errors.RagEmbedError)
    assert cls.__doc__
    with pytest.raises(errors.RagEmbedError, match="found, expected, what to do"):
        raise cls("found, expected, what to do")


def test_callers_can_catch_with_the_builtin_classes() -> None:
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)
    assert not issubclass(errors.ModelError, builtins.ValueError)


def test_empty_spans_are_named() -> None:
    assert errors.EmptySpanError("x", (1, 3)).indices == (1, 3)
    assert errors.EmptySpanError("x").indices == ()
