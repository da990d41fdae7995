"""Searches, filters and settings, in the types of qdrant-edge-py."""

from __future__ import annotations

import uuid
from datetime import date, datetime, timezone

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from rag_embed.errors import StoreError, UnsupportedQueryError
from rag_embed.qdrant.port import PointId, Search, StoredPoint, VectorPrefix, name_vectors, select_vector

_DISTANCES = {
    models.Distance.COSINE: edge.Distance.Cosine,
    models.Distance.DOT: edge.Distance.Dot,
    models.Distance.EUCLID: edge.Distance.Euclid,
    models.Distance.MANHATTAN: edge.Distance.Manhattan,
}
_DATATYPES = {
    models.Datatype.FLOAT32: edge.VectorStorageDatatype.Float32,
    models.Datatype.FLOAT16: edge.VectorStorageDatatype.Float16,
    models.Datatype.UINT8: edge.VectorStorageDatatype.Uint8,
}
_KINDS = {
    models.PayloadSchemaType.KEYWORD: edge.PayloadSchemaType.Keyword,
    models.PayloadSchemaType.INTEGER: edge.PayloadSchemaType.Integer,
    models.PayloadSchemaType.FLOAT: edge.PayloadSchemaType.Float,
    models.PayloadSchemaType.BOOL: edge.PayloadSchemaType.Bool,
    models.PayloadSchemaType.DATETIME: edge.PayloadSchemaType.Datetime,
    models.PayloadSchemaType.UUID: edge.PayloadSchemaType.Uuid,
    models.PayloadSchemaType.TEXT: edge.PayloadSchemaType.Text,
    models.PayloadSchemaType.GEO: edge.PayloadSchemaType.Geo,
}
_QUERY_ENCODINGS = {
    models.BinaryQuantizationQueryEncoding.DEFAULT: edge.BinaryQuantizationQueryEncoding.Default,
    models.BinaryQuantizationQueryEncoding.BINARY: edge.BinaryQuantizationQueryEncoding.Binary,
    models.BinaryQuantizationQueryEncoding.SCALAR4BITS: edge.BinaryQuantizationQueryEncoding.Scalar4Bits,
    models.BinaryQuantizationQueryEncoding.SCALAR8BITS: edge.BinaryQuantizationQueryEncoding.Scalar8Bits,
}
_RATIOS = {
    models.CompressionRatio.X4: edge.CompressionRatio.X4,
    models.CompressionRatio.X8: edge.CompressionRatio.X8,
    models.CompressionRatio.X16: edge.CompressionRatio.X16,
    models.CompressionRatio.X32: edge.CompressionRatio.X32,
    models.CompressionRatio.X64: edge.CompressionRatio.X64,
}


def to_edge_config(request: models.CreateCollection) -> edge.EdgeConfig:
    """Translate the settings of a new collection; those of a cluster mean nothing in one process.

    Raises:
        StoreError: A setting that the embedded engine does not have.
    """
    vectors = request.vectors if isinstance(request.vectors, dict) else {"": request.vectors}
    return edge.EdgeConfig(
        vectors={name: _vector(params) for name, params in vectors.items() if params is not None},
        on_disk_payload=request.on_disk_payload,
        hnsw_config=_hnsw(request.hnsw_config),
        optimizers=_optimizers(request.optimizers_config),
    )


def to_edge_index(key: str, schema: models.PayloadFieldSchema) -> edge.UpdateOperation:
    """Build the operation that indexes a payload key."""
    if isinstance(schema, models.KeywordIndexParams):
        params = edge.KeywordIndexParams(is_tenant=schema.is_tenant, on_disk=schema.on_disk)
        return edge.UpdateOperation.create_field_index(key, params)
    kind = schema if isinstance(schema, models.PayloadSchemaType) else schema.type
    return edge.UpdateOperation.create_field_index(key, _KINDS[models.PayloadSchemaType(kind.value)])


def to_edge_filter(condition: models.Filter) -> edge.Filter:
    """Translate a filter.

    Raises:
        UnsupportedQueryError: A condition that this package does not use.
    """
    return edge.Filter(
        must=_conditions(condition.must),
        should=_conditions(condition.should),
        must_not=_conditions(condition.must_not),
    )


def to_edge_id(id_: PointId) -> int | uuid.UUID:
    """Translate the id of a point."""
    return id_ if isinstance(id_, int) else uuid.UUID(id_)


def to_edge_point(point: StoredPoint, vector_name: str, prefix: VectorPrefix | None) -> edge.Point:
    """Translate a point to write."""
    vectors = name_vectors(point.vector or [], vector_name, prefix)
    return edge.Point(to_edge_id(point.id), vectors, point.payload)  # type: ignore[arg-type]


def to_edge_query(search: Search) -> edge.QueryRequest:
    """Translate a search."""
    using = search.vector_name or None
    query: edge.ScoringQueryType = edge.Query.Nearest(search.vector, using=using)
    if search.diversity is not None:
        query = edge.Mmr(search.vector, 1.0 - search.diversity, search.candidates, using=using)
    condition = to_edge_filter(search.condition) if search.condition else None
    prefetches, params = None, None
    if search.prefix is not None:
        # The whole vectors order the candidates, so quantized ones need no rescoring.
        start = edge.Query.Nearest(search.vector[: search.prefix.dim], using=search.prefix.name)
        unrescored = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=False))
        prefetches = [
            edge.Prefetch(limit=search.prefix_limit, query=start, params=unrescored, filter=condition)
        ]
    elif search.oversampling is not None:
        rescoring = edge.QuantizationSearchParams(rescore=True, oversampling=search.oversampling)
        params = edge.SearchParams(quantization=rescoring)
    return edge.QueryRequest(
        limit=search.limit,
        query=query,
        prefetches=prefetches,
        filter=condition,
        params=params,
        with_payload=True,
        with_vector=select_vector(search.vector_name) if search.with_vector else False,
    )


def _vector(params: models.VectorParams) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        size=params.size,
        distance=_DISTANCES[params.distance],
        on_disk=params.on_disk,
        datatype=_DATATYPES[params.datatype] if params.datatype else None,
        hnsw_config=_hnsw(params.hnsw_config),
        quantization_config=_quantization(params.quantization_config),
    )


def _hnsw(config: models.HnswConfigDiff | None) -> edge.HnswIndexConfig | None:
    if config is None:
        return None
    return edge.HnswIndexConfig(  # Qdrant's defaults for what is left open
        m=16 if config.m is None else config.m,
        ef_construct=100 if config.ef_construct is None else config.ef_construct,
        full_scan_threshold=10_000 if config.full_scan_threshold is None else config.full_scan_threshold,
        max_indexing_threads=config.max_indexing_threads or 0,
        on_disk=config.on_disk,
        payload_m=config.payload_m,
    )


def _optimizers(config: models.OptimizersConfigDiff | None) -> edge.EdgeOptimizersConfig | None:
    if config is None:
        return None
    return edge.EdgeOptimizersConfig(
        deleted_threshold=config.deleted_threshold,
        vacuum_min_vector_number=config.vacuum_min_vector_number,
        default_segment_number=config.default_segment_number,
        max_segment_size=config.max_segment_size,
        indexing_threshold=config.indexing_threshold,
    )


def _quantization(config: models.QuantizationConfig | None) -> edge.QuantizationConfigType | None:
    if config is None:
        return None
    if isinstance(config, models.ScalarQuantization):
        scalar = config.scalar
        return edge.ScalarQuantizationConfig(
            edge.ScalarType.Int8, quantile=scalar.quantile, always_ram=scalar.always_ram
        )
    if isinstance(config, models.ProductQuantization):
        product = config.product
        return edge.ProductQuantizationConfig(_RATIOS[product.compression], always_ram=product.always_ram)
    if isinstance(config, models.BinaryQuantization) and not config.binary.encoding:
        asked = config.binary.query_encoding
        return edge.BinaryQuantizationConfig(
            always_ram=config.binary.always_ram, query_encoding=_QUERY_ENCODINGS[asked] if asked else None
        )
    raise StoreError(
        f"the embedded engine is not given {config!r}; expected scalar, product or one-bit binary "
        "quantization. Use a server for the others"
    )


def _conditions(value: list[models.Condition] | models.Condition | None) -> list[edge.ConditionType] | None:
    if value is None:
        return None
    return [_condition(item) for item in (value if isinstance(value, list) else [value])]


def _condition(item: models.Condition) -> edge.ConditionType:
    if isinstance(item, models.Filter):
        return to_edge_filter(item)
    if isinstance(item, models.HasIdCondition):
        return edge.HasIdCondition({to_edge_id(id_) for id_ in item.has_id if not isinstance(id_, uuid.UUID)})
    if isinstance(item, models.IsEmptyCondition):
        return edge.IsEmptyCondition(item.is_empty.key)
    if isinstance(item, models.FieldCondition):
        if item.match is not None:
            return edge.FieldCondition(item.key, match=_match(item.match))
        if isinstance(item.range, models.Range):
            bounds = item.range
            return edge.FieldCondition(
                item.key, range=edge.RangeFloat(gte=bounds.gte, gt=bounds.gt, lte=bounds.lte, lt=bounds.lt)
            )
        if isinstance(item.range, models.DatetimeRange):
            dates = item.range
            return edge.FieldCondition(
                item.key,
                range=edge.RangeDateTime(
                    gte=_date(dates.gte), gt=_date(dates.gt), lte=_date(dates.lte), lt=_date(dates.lt)
                ),
            )
    raise UnsupportedQueryError(
        f"the embedded engine is not given the condition {item!r}; expected a match, a range, ids or is-empty"
    )


def _match(match: models.Match) -> edge.MatchType:
    if isinstance(match, models.MatchValue) and isinstance(match.value, bool):
        return edge.MatchValue(np.bool_(match.value))  # type: ignore[arg-type]  # a bool it takes for 0 or 1
    if isinstance(match, models.MatchValue):
        return edge.MatchValue(match.value)
    if isinstance(match, models.MatchAny):
        return edge.MatchAny(match.any)
    if isinstance(match, models.MatchText):
        return edge.MatchText(match.text)
    raise UnsupportedQueryError(
        f"the embedded engine is not given the match {match!r}; expected a value, any of several, or text"
    )


def _date(value: datetime | date | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).isoformat()
