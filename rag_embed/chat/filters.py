"""Filters as people write them: "key=value" pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from rag_embed.errors import InputError
from rag_embed.surrogates import check_unicode


def parse_filters(pairs: Sequence[str]) -> MetadataFilters | None:
    """Read "key=value" pairs, all of which must hold.

    A reader may have stored a number, a number's digits or a truth value, and nobody who asks knows which:
    what JSON reads as one of them is looked for as that and as text. A quoted string is text alone.
    A key with a dot is the key of that name as well as a path into a dict.

    Raises:
        InputError: A pair without a key or without "=", or with characters that no text may hold.
    """
    filters: list[MetadataFilter | MetadataFilters] = []
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not key or not separator:
            raise InputError(f"the filter is {pair!r}; expected key=value, such as source=docs")
        check_unicode(pair, "the filter")
        keys = [f'"{key}"', key] if _is_path(key) else [key]
        ways = [_is_equal(name, value) for name in keys for value in _possible_values(text)]
        filters.append(MetadataFilters(filters=ways, condition=FilterCondition.OR))
    return MetadataFilters(filters=filters) if filters else None


def parse_value(text: str) -> object:
    """Read a value as JSON where it is JSON, else as text."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


def _possible_values(text: str) -> list[str | int | float]:
    """What a stored value that is written like this may be."""
    value = parse_value(text)
    if isinstance(value, str):
        return [value]
    if isinstance(value, int):
        return [text, value] if -(2**63) <= value < 2**63 else [text]
    return [text, value] if isinstance(value, float) and math.isfinite(value) else [text]


def _is_path(key: str) -> bool:
    return any(character in key for character in ".[]") and '"' not in key


def _is_equal(key: str, value: str | int | float) -> MetadataFilter:
    if isinstance(value, bool):
        # LlamaIndex's filters know no truth values; the store does.
        fields: dict[str, Any] = {"key": key, "value": value, "operator": FilterOperator.EQ}
        return MetadataFilter.model_construct(**fields)
    return MetadataFilter(key=key, value=value)
