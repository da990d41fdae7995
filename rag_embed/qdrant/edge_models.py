"""Points, searches and settings, in the types of qdrant-edge-py."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import qdrant_edge as edge
from qdrant_client import models

from rag_embed.errors import StoreError
from rag_embed.qdrant.edge_filters import to_edge_filter, to_edge_id
from rag_embed.qdrant.port import QueryVector, Search, StoredPoint, VectorPrefix
from rag_embed.qdrant.records import name_vectors, select_vectors

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
    models.Datatype.TURBO4: edge.VectorStorageDatatype.Turbo4,  # type: ignore[attr-defined]
    models.Datatype.TURBO8: edge.VectorStorageDatatype.Turbo8,
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
        sparse_vectors={
            name: edge.EdgeSparseVectorParams(
                modifier=edge.Modifier.Idf if params.modifier is models.Modifier.IDF else None
            )
            for name, params in (request.sparse_vectors or {}).items()
        },
        on_disk_payload=request.on_disk_payload,
        hnsw_config=_hnsw(request.hnsw_config),
        optimizers=_optimizers(request.optimizers_config),
    )


def to_edge_schema(
    schema: models.PayloadFieldSchema,
) -> edge.PayloadSchemaType | edge.PayloadSchemaParams:
    """Translate how a payload key is indexed."""
    if isinstance(schema, models.KeywordIndexParams):
        return edge.KeywordIndexParams(is_tenant=schema.is_tenant, on_disk=schema.on_disk)
    kind = schema if isinstance(schema, models.PayloadSchemaType) else schema.type
    return _KINDS[models.PayloadSchemaType(kind.value)]


def read_edge_indexes(info: edge.ShardInfo) -> dict[str, models.PayloadFieldSchema]:
    """Say which payload keys are indexed, and how; the inverse of `to_edge_schema`."""
    kinds = {str(kind): schema for schema, kind in _KINDS.items()}
    indexes: dict[str, models.PayloadFieldSchema] = {}
    for key, index in info.payload_schema.items():
        indexes[key] = kinds[str(index.data_type)]
        if isinstance(index.params, edge.KeywordIndexParams):
            indexes[key] = models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD,
                is_tenant=index.params.is_tenant,
                on_disk=index.params.on_disk,
            )
    return indexes


def to_edge_point(point: StoredPoint, vector_name: str, prefix: VectorPrefix | None) -> edge.Point:
    """Translate a point to write."""
    vectors = name_vectors(point, vector_name, prefix)
    if isinstance(vectors, dict):
        vectors = {name: _query_vector(vector) for name, vector in vectors.items()}  # type: ignore[arg-type]
    return edge.Point(to_edge_id(point.id), vectors, point.payload)  # type: ignore[arg-type]


def to_edge_query(search: Search) -> edge.QueryRequest:
    """Translate a search."""
    query = _nearest(search)
    if search.diversity is not None:
        using = search.vector_name or None
        query = edge.Mmr(search.vector, 1.0 - search.diversity, search.candidates, using=using)  # type: ignore[arg-type]
    return edge.QueryRequest(
        limit=search.limit,
        query=query,
        prefetches=_prefix_stage(search),
        filter=to_edge_filter(search.condition) if search.condition else None,
        params=_search_params(search.search_params) if search.search_params else None,
        with_payload=search.with_payload,
        with_vector=select_vectors(search.vector_name) if search.with_vector else False,
    )


def to_edge_finders(searches: Sequence[Search]) -> edge.QueryBatchRequest:
    """Translate searches that find candidates, of which the ids are enough."""
    return edge.QueryBatchRequest(
        [
            edge.QueryRequest(
                limit=search.limit,
                query=_nearest(search),
                prefetches=_prefix_stage(search),
                filter=to_edge_filter(search.condition) if search.condition else None,
                params=_search_params(search.search_params) if search.search_params else None,
            )
            for search in searches
        ]
    )


def to_edge_scorers(searches: Sequence[Search], ids: set[uuid.UUID | int | str]) -> edge.QueryBatchRequest:
    """Translate searches of which each scores the same points, by what is stored and no shortened copy."""
    return edge.QueryBatchRequest(
        [
            edge.QueryRequest(
                limit=len(ids),
                query=_nearest(search),
                filter=edge.Filter(must=[edge.HasIdCondition(ids)]),
                params=edge.SearchParams(exact=True),
                with_payload=number == 0,
                with_vector=select_vectors(search.vector_name) if search.with_vector else False,
            )
            for number, search in enumerate(searches)
        ]
    )


def _nearest(search: Search) -> edge.ScoringQueryType:
    return edge.Query.Nearest(_query_vector(search.vector), using=search.vector_name or None)


def _query_vector(vector: QueryVector) -> edge.NamedVector:
    if isinstance(vector, models.SparseVector):
        return edge.SparseVector(vector.indices, vector.values)
    return vector


def _prefix_stage(search: Search) -> list[edge.Prefetch] | None:
    """Find candidates by the prefix; the whole vectors order them, so quantized ones need no rescoring."""
    if search.prefix is None:
        return None
    return [
        edge.Prefetch(
            limit=search.prefix_limit,
            query=edge.Query.Nearest(search.prefix_vector, using=search.prefix.name),
            params=_search_params(search.prefix_params),
            filter=to_edge_filter(search.condition) if search.condition else None,
        )
    ]


def _search_params(params: models.SearchParams) -> edge.SearchParams:
    quantization, acorn = params.quantization, params.acorn
    return edge.SearchParams(
        hnsw_ef=params.hnsw_ef,
        exact=bool(params.exact),
        quantization=edge.QuantizationSearchParams(
            bool(quantization.ignore), quantization.rescore, quantization.oversampling
        )
        if quantization
        else None,
        indexed_only=bool(params.indexed_only),
        acorn=edge.AcornSearchParams(bool(acorn.enable), acorn.max_selectivity) if acorn else None,
    )


def _vector(params: models.VectorParams) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        size=params.size,
        distance=_DISTANCES[params.distance],
        on_disk=params.on_disk,
        datatype=_DATATYPES[params.datatype] if params.datatype else None,
        hnsw_config=_hnsw(params.hnsw_config),
        quantization_config=_quantization(params.quantization_config),
        multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
        if params.multivector_config
        else None,
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
