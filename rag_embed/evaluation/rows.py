"""Rows of the files that a retrieval set is made of; each knows where it stands, for messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_embed.errors import InputError
from rag_embed.spans import CharSpan

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        place: "line 3 of queries.jsonl", for messages.
        values: What stands in it, as JSON has it; the cells of a table are strings.
    """

    place: str
    values: Mapping[str, Any]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def text(self, key: str, *, default: str | None = None) -> str:
        """A string.

        Args:
            key: Where it stands.
            default: Taken if the key is absent or null; without one the key has to be there.
        """
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start]
            raise self.wrong(key, f"text; U+{ord(half):04X} is half of a character", shown=False) from error
        return value

    def name(self, key: str) -> str:
        """An id: a string with something in it, or a whole number."""
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "an id, a string that is not empty")
        return self.text(key)

    def number(self, key: str, *, least: int = 0, most: int | None = None) -> int:
        """A whole number, both bounds included."""
        value = self.values.get(key)
        expected = f"a whole number from {least} {'on' if most is None else f'to {most}'}"
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError as error:
                raise self.wrong(key, expected) from error
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(key, expected)
        if most is not None and value > most:
            raise self.wrong(key, expected)
        return value

    def span(self, key: str, value: object, text: str) -> CharSpan:
        """A pair of numbers as characters of a text, at least one."""
        match value:
            case [int(start), int(end)] if not isinstance(start, bool) and not isinstance(end, bool):
                if 0 <= start < end <= len(text):
                    return CharSpan(start, end)
        raise InputError(
            f"{self.place} has {_show(value)} in {key!r}; expected [start, end] with 0 <= start < end <= "
            f"{len(text)}, the characters of its document"
        )

    def wrong(self, key: str, expected: str, *, shown: bool = True) -> InputError:
        """The error to raise about a value."""
        if key not in self.values:
            return InputError(
                f"{self.place} has no {key!r}, only {sorted(self.values)[:8]}; expected {expected}"
            )
        found = f"{_show(self.values[key])} in {key!r}" if shown else f"a wrong {key!r}"
        return InputError(f"{self.place} has {found}; expected {expected}")


def read_rows(path: Path, *, expected: str) -> Iterator[Row]:
    """Objects of a file with JSON on each line; empty lines are left out.

    Args:
        path: The file.
        expected: What should be there, for the message if it is not.

    Raises:
        InputError: The file cannot be read, or a line is no JSON object in UTF-8.
    """
    for place, line in _read_lines(path, expected):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is {_show(line)}, not JSON ({error}); expected {expected}") from error
        if not isinstance(values, dict):
            raise InputError(f"{place} is {_show(line)}; expected a JSON object, {expected}")
        yield Row(place, values)


def read_table(path: Path, columns: Sequence[str], *, expected: str) -> Iterator[Row]:
    """Rows below the header of a tab-separated file; empty lines are left out.

    Args:
        path: The file.
        columns: Names of the columns in their order, of which the last is a number; those in the header are
            not compared.
        expected: What should be there, for the message if it is not.

    Raises:
        InputError: The file cannot be read, or a line has other columns.
    """
    for number, (place, line) in enumerate(_read_lines(path, expected)):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise InputError(
                f"{place} has {len(cells)} columns; expected {len(columns)}, separated by tabs: "
                f"{', '.join(columns)}"
            )
        if number:
            yield Row(place, dict(zip(columns, cells)))
        elif cells[-1].strip().lstrip("-").isdecimal():
            raise InputError(f"{place} is {_show(line)}; expected a header: {', '.join(columns)}")


def _read_lines(path: Path, expected: str) -> Iterator[tuple[str, str]]:
    """Lines with something in them, and where each stands; only line feeds end a line."""
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                place = f"line {number} of {path}"
                try:
                    line = content.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise InputError(f"{place} is not UTF-8 ({error}); expected {expected}") from error
                if line.strip():
                    yield place, line
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; expected {expected}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); expected {expected}") from error


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]} ..."
