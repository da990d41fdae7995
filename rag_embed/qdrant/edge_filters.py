"""Filters, in the types of qdrant-edge-py: every kind of condition that Qdrant has."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any, TypeAlias

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from rag_embed.errors import UnsupportedQueryError
from rag_embed.qdrant.port import PointId

EdgeId: TypeAlias = int | uuid.UUID | str

EXACT_NUMBERS = 2**53
"""From here on several integers are one double."""

_edge: Any = edge  # its stubs forget the condition on slices


def to_edge_filter(condition: models.Filter) -> edge.Filter:
    """Translate a filter."""
    at_least = condition.min_should
    return edge.Filter(
        must=_conditions(condition.must),
        should=_conditions(condition.should),
        must_not=_conditions(condition.must_not),
        min_should=edge.MinShould(_all(at_least.conditions), at_least.min_count) if at_least else None,
    )


def to_edge_id(id_: PointId | uuid.UUID) -> EdgeId:
    """Translate the id of a point."""
    return uuid.UUID(id_) if isinstance(id_, str) else id_


def _conditions(
    value: Sequence[models.Condition] | models.Condition | None,
) -> list[edge.ConditionType] | None:
    if value is None:
        return None
    return _all(value if isinstance(value, Sequence) else [value])


def _all(conditions: Sequence[models.Condition]) -> list[edge.ConditionType]:
    return [_condition(item) for item in conditions]


_CONDITIONS: Mapping[type[models.Condition], Callable[[Any], edge.ConditionType]] = {
    models.HasIdCondition: lambda item: edge.HasIdCondition({to_edge_id(id_) for id_ in item.has_id}),
    models.IsEmptyCondition: lambda item: edge.IsEmptyCondition(item.is_empty.key),
    models.IsNullCondition: lambda item: edge.IsNullCondition(item.is_null.key),
    models.HasVectorCondition: lambda item: edge.HasVectorCondition(item.has_vector),
    models.NestedCondition: lambda item: edge.NestedCondition(
        item.nested.key, to_edge_filter(item.nested.filter)
    ),
    models.SliceCondition: lambda item: _edge.SliceCondition(item.slice.total, item.slice.index),
}


def _condition(item: models.Condition) -> edge.ConditionType:
    if isinstance(item, models.Filter):
        return to_edge_filter(item)
    if isinstance(item, models.FieldCondition):
        return _field(item)
    return _CONDITIONS[type(item)](item)


def _field(item: models.FieldCondition) -> edge.FieldCondition:
    if isinstance(item.range, models.Range):
        _check_exact(item.key, item.range)
    return edge.FieldCondition(
        item.key,
        match=_match(item.match) if item.match else None,
        range=_range(item.range) if item.range else None,
        geo_bounding_box=_box(item.geo_bounding_box) if item.geo_bounding_box else None,
        geo_radius=_circle(item.geo_radius) if item.geo_radius else None,
        geo_polygon=_polygon(item.geo_polygon) if item.geo_polygon else None,
        values_count=_values_count(item.values_count) if item.values_count else None,
        is_empty=item.is_empty,
        is_null=item.is_null,
    )


_MATCHES: Mapping[type[models.Match], Callable[[Any], edge.MatchType]] = {
    models.MatchValue: lambda match: edge.MatchValue(_value(match.value)),
    models.MatchAny: lambda match: edge.MatchAny(match.any),
    models.MatchExcept: lambda match: edge.MatchExcept(match.except_),
    models.MatchText: lambda match: edge.MatchText(match.text),
    models.MatchTextAny: lambda match: edge.MatchTextAny(match.text_any),
    models.MatchPhrase: lambda match: edge.MatchPhrase(match.phrase),
    models.MatchPrefix: lambda match: edge.MatchPrefix(match.prefix),
    models.MatchSubstring: lambda match: edge.MatchSubstring(match.substring),
}


def _value(value: bool | int | str) -> Any:
    # The engine takes Python's True for the number 1, numpy's for what it is.
    return np.bool_(value) if isinstance(value, bool) else value


def _match(match: models.Match) -> edge.MatchType:
    return _MATCHES[type(match)](match)


def _range(bounds: models.Range | models.DatetimeRange) -> edge.RangeType:
    if isinstance(bounds, models.Range):
        return edge.RangeFloat(gte=bounds.gte, gt=bounds.gt, lte=bounds.lte, lt=bounds.lt)
    return edge.RangeDateTime(
        gte=_date(bounds.gte), gt=_date(bounds.gt), lte=_date(bounds.lte), lt=_date(bounds.lt)
    )


def _check_exact(key: str, bounds: models.Range) -> None:
    """Refuse bounds next to which the engine, comparing doubles, takes different integers for one."""
    given = (bounds.gte, bounds.gt, bounds.lte, bounds.lt)
    if any(bound is not None and abs(bound) >= EXACT_NUMBERS for bound in given):
        raise UnsupportedQueryError(
            f"the embedded engine compares {key!r} as doubles, which cannot tell integers from 2**53 on "
            "apart; expected bounds below that. Store such numbers as text, or use a server"
        )


def _date(value: datetime | date | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).isoformat()


def _values_count(count: models.ValuesCount) -> edge.ValuesCount:
    return edge.ValuesCount(lt=count.lt, gt=count.gt, lte=count.lte, gte=count.gte)


def _box(box: models.GeoBoundingBox) -> edge.GeoBoundingBox:
    return edge.GeoBoundingBox(_point(box.top_left), _point(box.bottom_right))


def _circle(circle: models.GeoRadius) -> edge.GeoRadius:
    return edge.GeoRadius(_point(circle.center), circle.radius)


def _polygon(polygon: models.GeoPolygon) -> edge.GeoPolygon:
    holes = [_line(line) for line in polygon.interiors] if polygon.interiors else None
    return edge.GeoPolygon(_line(polygon.exterior), holes)


def _line(line: models.GeoLineString) -> list[edge.GeoPoint]:
    return [_point(point) for point in line.points]


def _point(point: models.GeoPoint) -> edge.GeoPoint:
    return edge.GeoPoint(point.lon, point.lat)
