"""LlamaIndex metadata filters as Qdrant conditions: translated exactly, or refused.

What a filter means, on every engine (a key that is absent, null or an empty list has no value, a list many):

| operator | a chunk passes when |
|---|---|
| EQ, CONTAINS | some value equals the given one |
| IN, ANY | some value equals one of the given ones; nothing passes an empty list |
| NE, NIN | EQ, IN do not hold; so a chunk without the key passes |
| ALL | each of the given values is among its values |
| GT, GTE, LT, LTE | some value is a number in that range, or a date if an ISO date is given |
| TEXT_MATCH, TEXT_MATCH_INSENSITIVE | the text contains each of the words, in any order and case |
| IS_EMPTY | it has no value |
| AND, OR, NOT | all, some, none of the filters in it hold; a group without filters says nothing |

Numbers equal by value (2 and 2.0); strings never equal numbers. `"true"` and `"false"` also equal booleans,
for which LlamaIndex's MetadataFilter has no type. A key that reads as a path (`author.name`, `authors[0]`)
means both, a value inside a dict or list and a key of that name; quoted, `'"author.name"'`, only the latter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from pydantic import TypeAdapter, ValidationError
from qdrant_client import models

from rag_embed.errors import UnsupportedQueryError
from rag_embed.qdrant.points import possible_point_ids
from rag_embed.qdrant.values import check_text, is_unicode

DOCUMENT_KEY = "doc_id"
"""Payload key of the document a chunk belongs to; LlamaIndex's store filters by it too."""

DOCUMENT_INDEXES: Mapping[str, models.PayloadFieldSchema] = {
    DOCUMENT_KEY: models.PayloadSchemaType.KEYWORD,
    "ref_doc_id": models.PayloadSchemaType.KEYWORD,
}
"""What replacing and deleting a document looks for."""

Value: TypeAlias = bool | int | float | str
Condition: TypeAlias = models.Condition
Translate: TypeAlias = Callable[[MetadataFilter, str], Condition]

_PATH = re.compile(r"[A-Za-z0-9_\-]+(\[\d{0,9}\])?(\.[A-Za-z0-9_\-]+(\[\d{0,9}\])?)*|\"[^\\]*\"")
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?")
_DATETIME = TypeAdapter(datetime)
_EXACT_INTEGERS = 2**53
_INT64 = 2**63
_SWITCHES: Mapping[object, bool] = {True: True, False: False, "true": True, "false": False}
_DENIALS = (FilterOperator.NE, FilterOperator.NIN, FilterOperator.IS_EMPTY)
_RANGES = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}


def to_condition(filters: MetadataFilters | None) -> models.Filter | None:
    """Translate a tree of filters; None if it says nothing.

    Raises:
        UnsupportedQueryError: Qdrant cannot evaluate a part of it.
    """
    if filters is None:
        return None
    conditions: list[Condition] = []
    for item in filters.filters:
        if isinstance(item, MetadataFilters):
            group = to_condition(item)
            if group is not None:
                conditions.append(group)
        else:
            conditions.append(_translate(item))
    if not conditions:
        return None
    if filters.condition == FilterCondition.OR:
        return models.Filter(should=conditions)
    if filters.condition == FilterCondition.NOT:
        return models.Filter(must_not=conditions)
    return models.Filter(must=conditions)


def has_node_ids(node_ids: Sequence[str]) -> models.HasIdCondition:
    """Match the points of these nodes."""
    return models.HasIdCondition(has_id=[id_ for node_id in node_ids for id_ in possible_point_ids(node_id)])


def is_of_documents(ref_doc_ids: Sequence[str]) -> models.FieldCondition:
    """Match the chunks of these documents."""
    ids = [check_text(ref_doc_id, "the document id") for ref_doc_id in ref_doc_ids]
    return models.FieldCondition(key=DOCUMENT_KEY, match=models.MatchAny(any=ids))


def all_of(*conditions: Condition | None) -> models.Filter | None:
    """Join conditions that must all hold, leaving out None; None if nothing is left."""
    present = [condition for condition in conditions if condition is not None]
    return models.Filter(must=present) if present else None


def to_path(key: str) -> str:
    """Write a metadata key as a path that Qdrant parses.

    Raises:
        UnsupportedQueryError: No path names the key.
    """
    if not is_unicode(key):
        raise UnsupportedQueryError(f"the filter key {key!r} holds a lone surrogate; expected Unicode text")
    if _PATH.fullmatch(key):
        return key
    if not key or '"' in key or "\\" in key:
        raise UnsupportedQueryError(
            f"the filter key {key!r} cannot be written as a Qdrant path; expected text without double quotes "
            "and backslashes"
        )
    return f'"{key}"'


def _translate(item: MetadataFilter) -> Condition:
    translate = _OPERATORS.get(item.operator)
    if translate is None:
        raise UnsupportedQueryError(
            f"Qdrant has no filter operator {item.operator.name} (on {item.key!r}); expected one of "
            f"{', '.join(operator.name for operator in _OPERATORS)}"
        )
    path = to_path(item.key)
    literal = f'"{item.key}"'
    if item.key == path and re.search(r"[.\[]", path) and not path.startswith('"'):
        return _either(translate, item, path, literal)
    return translate(item, path)


def _either(translate: Translate, item: MetadataFilter, path: str, literal: str) -> Condition:
    """Read a key as a path and as a name with a dot in it; what denies must hold of both."""
    readings: list[Condition] = [translate(item, path), translate(item, literal)]
    if item.operator in _DENIALS:
        return models.Filter(must=readings)
    return models.Filter(should=readings)


def _is_equal(item: MetadataFilter, key: str) -> Condition:
    return _is_any(key, [_one_value(item)])


def _is_in(item: MetadataFilter, key: str) -> Condition:
    return _is_any(key, _many_values(item))


def _has_all(item: MetadataFilter, key: str) -> Condition:
    return models.Filter(must=[_is_any(key, [value]) for value in _many_values(item)])


def _is_empty(item: MetadataFilter, key: str) -> Condition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def _is_between(item: MetadataFilter, key: str) -> Condition:
    bound = _RANGES[item.operator]
    value = _one_value(item)
    if isinstance(value, bool):
        raise _refused(item, "a number or an ISO date")
    if not isinstance(value, str):
        return models.FieldCondition(key=key, range=models.Range(**{bound: float(value)}))
    try:
        if not _ISO_DATE.fullmatch(value):
            raise ValueError(value)
        date = _DATETIME.validate_python(value)
    except (ValueError, ValidationError) as error:
        raise _refused(item, "a number or an ISO date; Qdrant does not order other text") from error
    return models.FieldCondition(key=key, range=models.DatetimeRange(**{bound: date}))


def _matches_text(item: MetadataFilter, key: str) -> Condition:
    value = item.value
    if not isinstance(value, str) or not is_unicode(value) or not re.search(r"[^\W_]", value):
        raise _refused(item, "a text with at least one word")
    return models.FieldCondition(key=key, match=models.MatchText(text=value))


def _is_any(key: str, values: Sequence[Value]) -> Condition:
    """Match a key that has one of some values."""
    strings = [value for value in values if isinstance(value, str)]
    switches = {_SWITCHES[value] for value in values if isinstance(value, bool | str) and value in _SWITCHES}
    values = [value for value in values if not isinstance(value, bool)]
    # As a range a number also finds payloads of the other type; an integer from 2**53 on, its neighbours.
    large = [value for value in values if isinstance(value, int) and abs(value) >= _EXACT_INTEGERS]
    numbers = [float(value) for value in values if not isinstance(value, str) and value not in large]
    options: list[Condition] = []
    if strings:
        options.append(models.FieldCondition(key=key, match=models.MatchAny(any=strings)))
    if large:
        options.append(models.FieldCondition(key=key, match=models.MatchAny(any=large)))
    options += [models.FieldCondition(key=key, match=models.MatchValue(value=v)) for v in sorted(switches)]
    options += [models.FieldCondition(key=key, range=models.Range(gte=v, lte=v)) for v in numbers]
    if not options:
        return models.HasIdCondition(has_id=[])  # an empty `should` would hold for every point
    return options[0] if len(options) == 1 else models.Filter(should=options)


def _not(translate: Translate) -> Translate:
    # MatchExcept would miss the points that lack the key.
    return lambda item, key: models.Filter(must_not=[translate(item, key)])


def _one_value(item: MetadataFilter) -> Value:
    if item.value is None or isinstance(item.value, list):
        raise _refused(item, "one string or number; use IN, ANY or ALL for lists, IS_EMPTY for None")
    return _checked(item, item.value)


def _many_values(item: MetadataFilter) -> list[Value]:
    if not isinstance(item.value, list):
        raise _refused(item, "a list; use EQ, NE or CONTAINS for one value")
    return [_checked(item, value) for value in item.value]


def _checked(item: MetadataFilter, value: Value) -> Value:
    if isinstance(value, str) and not is_unicode(value):
        raise _refused(item, "Unicode text; this holds a lone surrogate")
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused(item, "a finite number")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise _refused(item, "an integer of at most 64 bits")
    return value


def _refused(item: MetadataFilter, expected: str) -> UnsupportedQueryError:
    return UnsupportedQueryError(
        f"filter {item.key!r} {item.operator.name} has the value {item.value!r}; expected {expected}"
    )


_OPERATORS: dict[FilterOperator, Translate] = {
    FilterOperator.EQ: _is_equal,
    FilterOperator.NE: _not(_is_equal),
    FilterOperator.GT: _is_between,
    FilterOperator.GTE: _is_between,
    FilterOperator.LT: _is_between,
    FilterOperator.LTE: _is_between,
    FilterOperator.IN: _is_in,
    FilterOperator.NIN: _not(_is_in),
    FilterOperator.ANY: _is_in,
    FilterOperator.ALL: _has_all,
    FilterOperator.CONTAINS: _is_equal,
    FilterOperator.TEXT_MATCH: _matches_text,
    FilterOperator.TEXT_MATCH_INSENSITIVE: _matches_text,
    FilterOperator.IS_EMPTY: _is_empty,
}
