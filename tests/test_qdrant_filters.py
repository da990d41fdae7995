"""Filters against an obvious Python predicate, on every engine; what cannot be translated is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from rag_embed.errors import InputError, UnsupportedQueryError
from rag_embed.qdrant import QdrantChunkStore, edge_indexes
from rag_embed.qdrant.filters import to_condition
from tests.qdrant_cases import ask, make_vectors, where

O = FilterOperator  # noqa: E741
VALUES: list[Any] = [
    "red", "blue", "Red wine", "red-blue car", "", "1", 0, 1, 2, 2.0, 2.5, -3, 2**53 + 1, 2**53, True, None,
    [], ["red"], ["red", "blue"], [1, 2.5, "red"], [None], "2020-05-01",
    "2021-01-01T10:00:00Z", {"name": "ann"}, False, [True, "red"], "true", ["a red car", "Blue wine"],
]  # fmt: skip
KEYS = ["k", "other key", "other.name", "file.name"]


SWITCHES = {"true": True, "false": False}


def make_corpus() -> list[TextNode]:
    nodes = []
    for index, vector in enumerate(make_vectors(len(VALUES) * 2 + 1)):
        metadata: dict[str, Any] = {}
        if index < len(VALUES):
            metadata["k"] = VALUES[index]
        elif index < 2 * len(VALUES):
            value = VALUES[index - len(VALUES)]
            metadata = {"k": VALUES[(index * 7) % len(VALUES)], "other key": value, "other": {"name": value}}
            metadata |= {"file.name": value} if index % 2 else {"file": {"name": value}}
        nodes.append(TextNode(id_=str(index), text="x", metadata=metadata, embedding=vector))
    return nodes


CORPUS = make_corpus()


def values_of(metadata: dict[str, Any], key: str) -> list[Any]:
    found = values_of_raw(metadata, key)
    return [v for v in (found if isinstance(found, list) else [found]) if v is not None]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return stored == wanted if isinstance(stored, str) else stored is SWITCHES.get(wanted, "no switch")
    return is_number(stored) and stored == wanted


def words(text: str) -> set[str]:
    return set(text.lower().replace("-", " ").split())


def passes(node: TextNode, item: MetadataFilter | MetadataFilters) -> bool:
    """What the table in rag_embed.qdrant.filters says."""
    if isinstance(item, MetadataFilters):
        parts = [passes(node, part) for part in item.filters if not says_nothing(part)]
        if not parts:
            return True
        if item.condition == FilterCondition.NOT:
            return not any(parts)
        return any(parts) if item.condition == FilterCondition.OR else all(parts)
    found = values_of(node.metadata, item.key)
    wanted = item.value if isinstance(item.value, list) else [item.value]
    if item.operator in (O.EQ, O.CONTAINS, O.IN, O.ANY):
        return any(equal(v, w) for v in found for w in wanted)
    if item.operator in (O.NE, O.NIN):
        return not any(equal(v, w) for v in found for w in wanted)
    if item.operator == O.ALL:
        return all(any(equal(v, w) for v in found) for w in wanted)
    if item.operator == O.IS_EMPTY:
        return not found and values_of_raw(node.metadata, item.key) != [None]
    if item.operator in (O.TEXT_MATCH, O.TEXT_MATCH_INSENSITIVE):
        return any(isinstance(v, str) and words(item.value) <= words(v) for v in found)
    compare = {O.GT: "__gt__", O.GTE: "__ge__", O.LT: "__lt__", O.LTE: "__le__"}[item.operator]
    return any(is_number(v) and getattr(float(v), compare)(float(item.value)) for v in found)


def values_of_raw(metadata: dict[str, Any], key: str) -> Any:
    if key in metadata:  # a name with a dot in it, rather than a path
        return metadata[key]
    for part in key.split("."):
        metadata = metadata.get(part) if isinstance(metadata, dict) else None
    return metadata


def says_nothing(item: MetadataFilter | MetadataFilters) -> bool:
    return isinstance(item, MetadataFilters) and all(says_nothing(part) for part in item.filters)


scalars = st.sampled_from(
    [
        "red",
        "blue",
        "Red wine",
        "",
        "1",
        "2020-05-01",
        0,
        1,
        2,
        2.0,
        2.5,
        -3,
        2**53,
        2**53 + 1,
        "true",
        "false",
    ]
)
numbers = st.sampled_from([0, 1, 2, 2.0, 2.5, -3, 100])
keys = st.sampled_from(KEYS)


def leaf(
    operators: list[FilterOperator], values: st.SearchStrategy[Any]
) -> st.SearchStrategy[MetadataFilter]:
    return st.builds(MetadataFilter, key=keys, operator=st.sampled_from(operators), value=values)


leaves = st.one_of(
    leaf([O.EQ, O.NE, O.CONTAINS], scalars),
    leaf(
        [O.IN, O.NIN, O.ANY, O.ALL],
        st.one_of(
            st.lists(st.sampled_from(["red", "blue", "1"]), max_size=3),
            st.lists(st.sampled_from([0, 1, 2]), max_size=3),
            st.lists(st.sampled_from([2.0, 2.5]), max_size=2),
        ),
    ),
    leaf([O.GT, O.GTE, O.LT, O.LTE], numbers),
    leaf(
        [O.TEXT_MATCH, O.TEXT_MATCH_INSENSITIVE],
        st.sampled_from(["red", "RED", "wine red", "re", "blue car", "red blue", "red car"]),
    ),
    leaf([O.IS_EMPTY], st.none()),
)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        MetadataFilters, filters=st.lists(inner, max_size=3), condition=st.sampled_from(list(FilterCondition))
    ),
    max_leaves=6,
).map(lambda item: item if isinstance(item, MetadataFilters) else MetadataFilters(filters=[item]))


@pytest.fixture(scope="module", params=["memory", "folder", "folder with indexes"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QdrantChunkStore]:
    folder: Path = tmp_path_factory.mktemp("filters")
    place: dict[str, Any] = {"location": ":memory:"} if request.param == "memory" else {"path": folder}
    with pytest.MonkeyPatch.context() as patch, QdrantChunkStore("docs", **place) as opened:
        if request.param == "folder with indexes":
            patch.setattr(edge_indexes, "INDEX_FROM_POINTS", 0)
        opened.add(CORPUS)
        yield opened


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(filters=trees)
def test_filters_mean_what_they_say(store: QdrantChunkStore, filters: MetadataFilters) -> None:
    found = store.query(ask(CORPUS[0].embedding, top_k=len(CORPUS), filters=filters)).ids
    assert sorted(found, key=int) == [node.node_id for node in CORPUS if passes(node, filters)]


def test_dates(store: QdrantChunkStore) -> None:
    def found(value: Any, operator: FilterOperator) -> set[Any]:
        query = ask(CORPUS[0].embedding, top_k=99, filters=where("k", value, operator))
        values = [node.metadata["k"] for node in store.query(query).nodes]
        return {value for value in values if not isinstance(value, list)}

    both = {"2020-05-01", "2021-01-01T10:00:00Z"}
    for _ in range(2):  # numbers and dates under one key never hide each other
        assert found("2020-01-01", O.GT) == both
        assert found("2021-01-01", O.GTE) == {"2021-01-01T10:00:00Z"}
        assert found("2021-01-01T10:00:00+01:00", O.LT) == {"2020-05-01"}
        assert found(2.4, O.GT) >= {2.5}


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        (O.EQ, None, "IS_EMPTY for None"),
        (O.EQ, ["a"], "use IN, ANY or ALL for lists"),
        (O.IN, "a,b", "expected a list"),
        (O.ALL, 3, "expected a list"),
        (O.GT, "apple", "a number or an ISO date"),
        (O.GT, "2020-99-99", "a number or an ISO date"),
        (O.EQ, float("nan"), "a finite number"),
        (O.LT, float("inf"), "a finite number"),
        (O.EQ, 2**70, "at most 64 bits"),
        (O.TEXT_MATCH, "!?", "at least one word"),
        (O.TEXT_MATCH, 5, "at least one word"),
        (O.EQ, "half \ud83d", "Unicode text; this holds a lone surrogate"),
        (O.IN, ["fine", "\udcff"], "Unicode text; this holds a lone surrogate"),
        (O.TEXT_MATCH, "half \ud83d", "at least one word"),
    ],
)
def test_refused_values(operator: FilterOperator, value: Any, expected: str) -> None:
    with pytest.raises(
        UnsupportedQueryError, match=rf"filter 'k' {operator.name} has the value .*{expected}"
    ):
        to_condition(where("k", value, operator))


@pytest.mark.parametrize("key", ["", 'a"b'])
def test_refused_keys(key: str) -> None:
    with pytest.raises(UnsupportedQueryError, match="cannot be written as a Qdrant path"):
        to_condition(where(key, 1))


def test_a_lone_surrogate_in_a_key_or_an_id_is_one_clear_error(store: QdrantChunkStore) -> None:
    with pytest.raises(UnsupportedQueryError, match=r"filter key 'a\\ud800' holds a lone surrogate"):
        store.count(where("a\ud800", 1))
    vector = CORPUS[0].embedding
    for ask_for in (
        lambda: store.query(ask(vector, doc_ids=["\udcff"])),
        lambda: store.query(ask(vector, node_ids=["\udcff"])),
        lambda: store.get_nodes(["\udcff"]),
        lambda: store.get_vectors(["\udcff"]),
        lambda: store.delete("\udcff"),
        lambda: store.delete_nodes(["\udcff"]),
        lambda: store.replace_document("\udcff", []),
    ):
        with pytest.raises(InputError, match=r"is '\\udcff', which holds a lone surrogate; expected Unicode"):
            ask_for()


def test_booleans_are_found_by_their_names(store: QdrantChunkStore) -> None:
    def found(value: str, operator: FilterOperator = O.EQ) -> list[Any]:
        query = ask(CORPUS[0].embedding, top_k=999, filters=where("k", value, operator))
        return [node.metadata.get("k") for node in store.query(query).nodes]

    assert {str(value) for value in found("true")} == {"True", "[True, 'red']", "true"}
    assert set(found("false")) == {False}
    assert not any(value is True for value in found("true", O.NE))


def test_a_key_with_a_dot_in_its_name_is_found() -> None:
    node = TextNode(text="x", metadata={"file.name": "a.md"}, embedding=[1.0, 0.0])
    with QdrantChunkStore("docs", location=":memory:") as store:
        store.add([node])
        assert store.count(where("file.name", "a.md")) == 1
        assert store.count(where('"file.name"', "a.md")) == 1
        assert store.count(where("file.name", "a.md", O.NE)) == 0
        assert store.count(where("file.name", None, O.IS_EMPTY)) == 0
        assert store.count(where("file.size", None, O.IS_EMPTY)) == 1


def test_every_operator_is_translated() -> None:
    sample = {O.IN: ["a"], O.NIN: ["a"], O.ANY: ["a"], O.ALL: ["a"], O.TEXT_MATCH: "a"}
    sample |= {O.TEXT_MATCH_INSENSITIVE: "a", O.IS_EMPTY: None}
    for operator in FilterOperator:
        assert to_condition(where("k", sample.get(operator, 1), operator)) is not None
