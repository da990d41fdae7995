"""Names of LlamaIndex's own QdrantVectorStore: taken where they mean the same, else refused with our word."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from qdrant_client import models

from rag_embed.errors import InputError
from rag_embed.qdrant.cluster import ClusterOptions
from rag_embed.qdrant.lexical import LexicalForm
from rag_embed.qdrant.retry import RetryPolicy
from rag_embed.qdrant.settings import CollectionSettings

_SAME = {"dense_vector_name": "vector_name", "client_kwargs": "client_options"}
_SETTINGS = (
    "quantization_config",
    "shard_number",
    "replication_factor",
    "write_consistency_factor",
    "sharding_method",
)
_CLUSTER = ("shard_keys", "shard_key_selector_fn")
_SPARSE = (
    "lexical= keeps the words of each chunk by Qdrant's BM25 (True, a language, or a LexicalForm), and "
    "fusion is chosen by the query; leave it out"
)
_BM25 = ("qdrant/bm25",)
_REQUESTS = "requests are cut by their size and sent one after another; leave it out"
_REFUSED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "batch_size": ((), _REQUESTS),
    "parallel": ((1,), _REQUESTS),
    "enable_hybrid": ((False,), _SPARSE),
    "enable_native_bm25": ((False,), _SPARSE),
    "fastembed_sparse_model": ((), _SPARSE),
    "native_bm25_model": ((), _SPARSE),
    "sparse_doc_fn": ((), _SPARSE),
    "sparse_query_fn": ((), _SPARSE),
    "hybrid_fusion_fn": ((), _SPARSE),
    "sparse_vector_name": ((), _SPARSE),
    "sparse_config": ((), _SPARSE),
    "index_doc_id": (
        (True,),
        "the document id is always indexed, because replacing and deleting look for it; leave it out",
    ),
}
"""By name: values that ask for what happens anyway, and what to do instead of others."""


def translate_fields(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Bring a constructor's arguments to this store's names.

    Args:
        fields: As given; None counts as not given.
        known: Names of this store.

    Raises:
        InputError: An argument that would have no effect, or one thing said twice.
    """
    ours = {name: value for name, value in fields.items() if name in known and value is not None}
    if isinstance(ours.get("payload_indexes"), list):
        ours["payload_indexes"] = _read_indexes(ours["payload_indexes"])
    for name, value in fields.items():
        if name in known or value is None:
            pass
        elif name in _SAME:
            _put(ours, _SAME[name], value, name)
        elif (name in ("enable_hybrid", "enable_native_bm25") and value is True) or (
            name in ("fastembed_sparse_model", "native_bm25_model") and str(value).lower() in _BM25
        ):
            ours.setdefault("lexical", True)
        elif name == "bm25_config":
            ours["lexical"] = _read_bm25(value)
        elif name == "max_retries":
            if not isinstance(value, int):
                raise InputError(
                    f"max_retries is {value!r}; expected a whole number, or retry=RetryPolicy(...)"
                )
            _put(ours, "retry", RetryPolicy(attempts=max(1, value)), name)
        elif name in (*_SETTINGS, "dense_config"):
            ours["settings"] = _add_settings(ours.get("settings"), name, value)
        elif name in _CLUSTER:
            ours["cluster"] = _add_cluster(ours.get("cluster"), name, value)
        elif name not in _REFUSED:
            raise _unknown(name, known)
        elif value not in _REFUSED[name][0]:
            raise InputError(f"QdrantChunkStore takes no {name}=: {_REFUSED[name][1]}")
    return ours


def _put(ours: dict[str, Any], name: str, value: object, theirs: str) -> None:
    if name in ours:
        raise InputError(f"found {name}= and {theirs}=, which mean the same; expected one of them")
    ours[name] = value


def _add_settings(settings: object, name: str, value: Any) -> CollectionSettings:
    """Add one argument of theirs to the settings of a new collection."""
    known = CollectionSettings.model_validate(settings or {})
    added: dict[str, object] = {name: value}
    if name == "dense_config":
        config = models.VectorParams.model_validate(value)
        if config.multivector_config is not None:
            raise InputError("dense_config has a multivector_config; expected one vector of each chunk")
        names = ("distance", "datatype", "on_disk", "hnsw_config", "quantization_config")
        given = {field: getattr(config, field) for field in names}
        added = {"dim": config.size, **{field: value for field, value in given.items() if value is not None}}
    twice = sorted(known.model_fields_set & added.keys())
    if twice:
        raise InputError(f"found {name}= and settings with {' and '.join(twice)}; expected one of them")
    return CollectionSettings.model_validate({**known.model_dump(exclude_unset=True), **added})


def _add_cluster(cluster: object, name: str, value: Any) -> ClusterOptions:
    """Add one argument of theirs to what is said to a cluster."""
    known = ClusterOptions.model_validate(cluster or {})
    given = {key: getattr(known, key) for key in known.model_fields_set}
    if name in given:
        raise InputError(f"found {name}= and cluster with {name}; expected one of them")
    return ClusterOptions.model_validate({**given, name: value})


def _read_bm25(config: Any) -> LexicalForm:
    """Read Qdrant's own settings of BM25."""
    given = models.Bm25Config.model_validate(config).model_dump(exclude_none=True, mode="json")
    words = {"avg_len": "average_terms", "ascii_folding": "folds_accents"}
    known = {words.get(name, name): value for name, value in given.items()}
    if lost := sorted(known.keys() - LexicalForm.model_fields.keys()):
        raise InputError(
            f"bm25_config has {', '.join(lost)}; expected what rag_embed.qdrant.LexicalForm knows"
        )
    return LexicalForm.model_validate(known)


def _read_indexes(indexes: list[Any]) -> dict[str, Any]:
    """Read their list of {"field_name": key, "field_schema": kind}."""
    try:
        return {index["field_name"]: index["field_schema"] for index in indexes}
    except (TypeError, KeyError) as error:
        raise InputError(
            f"payload_indexes is {indexes!r}; expected a dict such as {{'page': 'integer'}}, or a list of "
            "{'field_name': ..., 'field_schema': ...}"
        ) from error


def _unknown(name: str, known: Collection[str]) -> InputError:
    close = difflib.get_close_matches(name, [*known, *_SAME, *_SETTINGS], 1)
    hint = f"did you mean {close[0]}=?" if close else f"expected some of {', '.join(sorted(known))}"
    return InputError(f"QdrantChunkStore knows no {name}=; {hint}")
