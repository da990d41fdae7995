"""The wire: what is sent, what is repeated, and what the user is told when a server fails."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from qdrant_client import models

from rag_embed.errors import StoreError, StoreUnavailableError
from rag_embed.qdrant import CollectionSettings, QdrantChunkStore, RetryPolicy
from tests.qdrant_cases import ask, make_nodes, where
from tests.qdrant_standin import Failure, StandIn, serve

FAST = RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=2.0)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with serve() as state:
        yield state


@pytest.fixture
def store(server: StandIn) -> Iterator[QdrantChunkStore]:
    with QdrantChunkStore("docs", url=server.url, retry=FAST) as store:
        yield store


@pytest.fixture(params=["sync", "async"])
def add(request: pytest.FixtureRequest, store: QdrantChunkStore):
    """Add nodes by either method."""
    if request.param == "sync":
        return store.add

    async def add_and_close(nodes):
        try:
            return await store.async_add(nodes)
        finally:
            await store._connection.close_loop()

    return lambda nodes: asyncio.run(add_and_close(nodes))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_repeated(server: StandIn, store: QdrantChunkStore, add, status: int) -> None:
    server.fail_with(*[Failure(status, only="PUT /collections/docs/points")] * 2)
    add(make_nodes(3))
    assert len(server.sent("PUT /collections/docs/points")) == 3
    assert store.count() == 3


def test_lasting_failures_end(server: StandIn, store: QdrantChunkStore, add) -> None:
    store.add(make_nodes(3))
    server.fail_with(*[Failure(503, only="PUT /collections/docs/points")] * 3)
    with pytest.raises(
        StoreUnavailableError, match=rf"server {server.url} answered 503 \(at most 3 attempts\)"
    ):
        add(make_nodes(3, seed=1, prefix="new"))
    assert len(server.sent("PUT /collections/docs/points")) == 1 + 3
    assert store.count() == 3


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_refusals_are_not_repeated(server: StandIn, store: QdrantChunkStore, add, status: int) -> None:
    store.add(make_nodes(3))
    server.fail_with(Failure(status, only="PUT /collections/docs/points"))
    with pytest.raises(StoreError, match=rf"refused the request \({status}\).*made to fail"):
        add(make_nodes(3, seed=1))
    assert len(server.sent("PUT /collections/docs/points")) == 2


def test_retry_after_is_honoured_within_bounds(server: StandIn, store: QdrantChunkStore, add) -> None:
    server.fail_with(Failure(429, {"Retry-After": "1"}, only="PUT /collections/docs/points"))
    start = time.monotonic()
    add(make_nodes(1))
    assert time.monotonic() - start >= 1.0
    server.fail_with(Failure(429, {"Retry-After": "3600"}, only="PUT /collections/docs/points"))
    with pytest.raises(StoreUnavailableError, match="answered 429, asking to wait 3600 s"):
        add(make_nodes(1))
    assert not server.failures
    server.fail_with(Failure(429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, only="/points"))
    add(make_nodes(1))
    assert store.count() == 1


def test_credentials(server: StandIn) -> None:
    server.api_key = "secret"
    with QdrantChunkStore("docs", url=server.url, retry=FAST) as store:
        with pytest.raises(StoreUnavailableError, match=r"refused the credentials \(401\).*Pass api_key="):
            store.add(make_nodes(1))
        assert len(server.requests) == 1
    with QdrantChunkStore("docs", url=server.url, api_key="secret") as store:
        store.add(make_nodes(1))
        assert store.count() == 1
        assert "secret" not in repr(store)
        assert "api_key" not in store.to_dict()
    server.api_key = None
    server.fail_with(Failure(403))
    with (
        QdrantChunkStore("docs", url=server.url) as store,
        pytest.raises(StoreUnavailableError, match=r"credentials \(403\)"),
    ):
        store.count()


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_no_server(prefer_grpc: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"prefer_grpc": prefer_grpc, "client_options": {"grpc_port": port}, "retry": FAST}
    url = f"http://127.0.0.1:{port}"
    with QdrantChunkStore("docs", url=url, **options) as store:
        expected = rf"server {url} (does not answer|answered 503) .*3 attempts.*Check the url.*docker compose"
        with pytest.raises(StoreUnavailableError, match=expected):
            store.add(make_nodes(1))

        async def count() -> None:
            try:
                await store.acount()
            finally:
                await store._connection.close_loop()

        with pytest.raises(StoreUnavailableError, match=expected):
            asyncio.run(count())
    with pytest.raises(StoreUnavailableError):
        QdrantChunkStore("docs", url=url, fingerprint="A", **options)


def test_a_silent_server_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            QdrantChunkStore("docs", url=url, timeout_s=1, retry=RetryPolicy(attempts=1)) as store,
            pytest.raises(
                StoreUnavailableError, match=r"does not answer .*(ReadTimeout|did not end within 1 s)"
            ),
        ):
            store.count()


class Answering(BaseHTTPRequestHandler):
    """Answers every request with the same bytes, one by one if it drips."""

    body = b""
    content_type = "application/json"
    drips_head = drips_body = False

    def log_message(self, *args: object) -> None:
        pass

    def answer(self) -> None:
        fields = f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}"
        head = f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"
        for part, drips in ((head.encode(), self.drips_head), (self.body, self.drips_body)):
            for piece in [part[i : i + 1] for i in range(len(part))] if drips else [part]:
                try:
                    self.wfile.write(piece)
                    self.wfile.flush()
                except OSError:
                    return
                if drips and self.server.stopping.wait(0.2):  # type: ignore[attr-defined]
                    return

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815


@contextmanager
def answering(**attributes: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), attributes))
    server.stopping = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.stopping.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


def count_in(url: str, is_async: bool, **options: Any) -> int:
    async def acount(store: QdrantChunkStore) -> int:
        async with store:
            return await store.acount()

    with QdrantChunkStore("docs", url=url, retry=RetryPolicy(attempts=1), **options) as store:
        return asyncio.run(acount(store)) if is_async else store.count()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("drips", ["drips_head", "drips_body"])
def test_a_server_that_drips_bytes_is_given_up_in_time(drips: str, is_async: bool) -> None:
    body = b'{"result": {"exists": false}, "status": "ok", "time": 0.0}'  # 58 bytes, .2 s each
    with answering(body=body, **{drips: True}) as url:
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"does not answer .*did not end within 1 s"):
            count_in(url, is_async, timeout_s=1)
        assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<!DOCTYPE html><title>Please log in</title>", "text/html"),
        (b'{"result": null, "status": "ok", "time": 0.0}', "application/json"),
        (b'{"result": {"exists": "perhaps"}}', "application/json"),
        (b"[]", "application/json"),
        (b"", "application/json"),
    ],
)
def test_an_answer_that_is_none_of_qdrants_says_what_to_check(
    body: bytes, content_type: str, is_async: bool
) -> None:
    with answering(body=body, content_type=content_type) as url:
        expected = (
            rf"server {url} answered with something that is none of Qdrant's.*Check url and port, .*login"
        )
        with pytest.raises(StoreError, match=f"(?s){expected}"):
            count_in(url, is_async)


def test_every_operation_survives_an_answer_without_a_result(
    server: StandIn, store: QdrantChunkStore
) -> None:
    nodes = make_nodes(3)
    store.add(nodes)
    operations = {
        "POST /collections/docs/points/query": lambda: store.query(ask(nodes[0].embedding)),
        "POST /collections/docs/points/scroll": store.get_nodes,
        "POST /collections/docs/points/count": store.count,
        "GET /collections/docs": store.info,
        "PUT /collections/docs/points": lambda: store.add(nodes),
        "POST /collections/docs/points/delete": lambda: store.delete("doc"),
        "POST /collections/docs/points ": lambda: store.get_vectors(["node-1"]),
    }
    answer = server.answer
    for route, operation in operations.items():
        server.answer = lambda method, path, body, route=route: (
            None if f"{method} {path.split('?')[0]} ".startswith(route) else answer(method, path, body)
        )
        with pytest.raises(StoreError, match=r"none of Qdrant's answers"):
            operation()
    server.answer = answer
    assert store.count() == 3


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5_000, "\u00b2", "1e3", "-1", "soon"])
def test_a_strange_retry_after_is_no_traceback(
    server: StandIn, store: QdrantChunkStore, add, text: str
) -> None:
    server.fail_with(Failure(429, {"Retry-After": text}, only="PUT /collections/docs/points"))
    if len(text) == 400:  # more digits than Python reads, or no digits at all, are no wish
        with pytest.raises(StoreUnavailableError, match="answered 429"):
            add(make_nodes(1))
    else:
        add(make_nodes(1))
        assert store.count() == 1


def test_a_vanished_collection(server: StandIn, store: QdrantChunkStore) -> None:
    nodes = make_nodes(3)
    store.add(nodes)
    server.database.delete_collection("docs")
    with pytest.raises(StoreError, match=r"does not have it \(404\).*check collection_name and url"):
        store.query(ask(nodes[0].embedding))
    assert store.query(ask(nodes[0].embedding)).ids == []


def test_a_document_is_never_absent(server: StandIn, store: QdrantChunkStore) -> None:
    """New chunks are stored before old ones go, and a crash in between is completed by doing it again."""
    store.add(make_nodes(5))
    new = make_nodes(3, seed=1, prefix="new")
    server.requests.clear()
    server.fail_with(*[Failure(500, only="POST /collections/docs/points/delete")] * 3)
    with pytest.raises(StoreUnavailableError):
        store.replace_document("doc", new)
    writes = [r.split("?")[0] for r in server.requests if "/points" in r and "scroll" not in r]
    assert writes == ["PUT /collections/docs/points", *["POST /collections/docs/points/delete"] * 3]
    assert store.count() == 8
    store.replace_document("doc", new)
    assert sorted(node.node_id for node in store.get_nodes()) == ["new-0", "new-1", "new-2"]


def test_a_collection_made_meanwhile(server: StandIn, store: QdrantChunkStore) -> None:
    """Two writers find no collection: the later one takes what the earlier one made, if it suits."""
    describe = server.get_exists
    answers = iter([{"exists": False}])
    with QdrantChunkStore("docs", url=server.url, retry=FAST) as late:
        store.add(make_nodes(2, fingerprint="A"))
        server.get_exists = lambda name, body: next(answers, None) or describe(name, body)
        late.add(make_nodes(2, fingerprint="A", prefix="late"))
        creations = [request for request in server.requests if request == "PUT /collections/docs"]
        assert len(creations) == 2
        answers = iter([{"exists": False}])
        with pytest.raises(StoreError, match="made by 'A'; what is added has fingerprint 'B'"):
            late.add(make_nodes(2, fingerprint="B"))
    assert store.count() == 4


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("code", "attempts", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3, "answered 503"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 3, "answered 429"),
        (grpc.StatusCode.INVALID_ARGUMENT, 1, r"refused the request \(400\): made to fail"),
        (grpc.StatusCode.UNAUTHENTICATED, 1, r"refused the credentials \(401\)"),
        (grpc.StatusCode.NOT_FOUND, 1, r"does not have it \(404\)"),
    ],
)
def test_failures_over_grpc(code: grpc.StatusCode, attempts: int, expected: str, is_async: bool) -> None:
    calls: list[str] = []

    class Failing(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            calls.append(details.method)
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(code, "made to fail"))

    grpc_server = grpc.server(ThreadPoolExecutor(2), handlers=[Failing()])
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    options = {"prefer_grpc": True, "client_options": {"grpc_port": port}, "retry": FAST}

    async def acount(store: QdrantChunkStore) -> None:
        async with store:
            await store.acount()

    try:
        with (
            QdrantChunkStore("docs", url="http://127.0.0.1:1", **options) as store,
            pytest.raises(StoreError, match=expected),
        ):
            asyncio.run(acount(store)) if is_async else store.count()
        assert calls == ["/qdrant.Collections/CollectionExists"] * attempts
    finally:
        grpc_server.stop(None).wait()


def test_indexes_come_before_points(server: StandIn) -> None:
    with QdrantChunkStore(
        "docs", url=server.url, tenant_key="owner", payload_indexes={"page": "integer"}
    ) as store:
        store.add(make_nodes(3, owner="ann", page=1))
        store.add(make_nodes(3, owner="ann", page=1))
    writes = [request for request in server.requests if request.startswith("PUT")]
    kinds = [request.split("/docs")[1].split("?")[0] for request in writes]
    assert kinds == ["", *["/index"] * 4, "/points", "/points"]
    assert server.indexes["docs"] == {
        "doc_id": "keyword",
        "ref_doc_id": "keyword",
        "page": "integer",
        "owner": "keyword",
    }


def test_settings_reach_the_server(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[models.CreateCollection] = []
    create = server.put_collection

    def record(name: str, body: bytes) -> object:
        sent.append(models.CreateCollection.model_validate_json(body))
        return create(name, body)

    monkeypatch.setattr(server, "put_collection", record)
    settings = CollectionSettings(
        datatype="float16", on_disk=True, shard_number=3, replication_factor=2, write_consistency_factor=2
    )
    with QdrantChunkStore("docs", url=server.url, settings=settings, tenant_key="owner") as store:
        store.add(make_nodes(2, fingerprint="A"))
    request = sent[0]
    assert (request.shard_number, request.replication_factor, request.write_consistency_factor) == (3, 2, 2)
    assert request.vectors["dense"].datatype == models.Datatype.FLOAT16
    assert request.vectors["dense"].on_disk is True
    assert (request.hnsw_config.m, request.hnsw_config.payload_m) == (0, 16)
    assert request.metadata == {"rag_embed": {"version": 1, "dim": 8, "fingerprint": "A"}}


def test_requests_stay_small(server: StandIn, store: QdrantChunkStore) -> None:
    nodes = make_nodes(60, dim=768)
    for node in nodes:
        node.set_content(
            "ü" * 100_000
        )  # 400 kB each, for LlamaIndex keeps the text as bytes in one JSON string
    store.add(nodes)  # the stand-in refuses 5 MB
    assert len(server.sent("/points?wait=true")) > 1
    assert store.count() == 60


def test_a_server_that_keeps_no_metadata(server: StandIn) -> None:
    """Before 1.16: the stamps of the stored chunks tell the fingerprint."""
    server.remembers_metadata = False
    with QdrantChunkStore("docs", url=server.url) as store:
        store.add(make_nodes(3, fingerprint="A"))
    with QdrantChunkStore("docs", url=server.url, fingerprint="A") as store:
        assert store.info().fingerprint == "A"
        with pytest.raises(StoreError, match="made by 'A'"):
            store.add(make_nodes(3, fingerprint="B"))
        assert store.count(where("index", 1)) == 1


def test_a_collection_of_a_later_version(server: StandIn, store: QdrantChunkStore) -> None:
    vectors = {"dense": models.VectorParams(size=8, distance=models.Distance.COSINE)}
    server.database.create_collection("docs", vectors_config=vectors, metadata={"rag_embed": {"version": 9}})
    with pytest.raises(StoreError, match="record has version 9; this rag-embed reads version 1"):
        store.add(make_nodes(1))


def test_pickled_stores_reach_the_same_collection_without_holding_the_key(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"headers": {"Authorization": "Bearer hidden"}, "pool_size": 2}
    with QdrantChunkStore(
        "docs", url=server.url, api_key="sesame", return_vectors=True, client_options=options
    ) as store:
        store.add(make_nodes(2))
        pickled = pickle.dumps(store)
        assert b"sesame" not in pickled
        assert b"hidden" not in pickled
        monkeypatch.setenv("QDRANT_API_KEY", "of this process")
        with pickle.loads(pickled) as copy:
            assert copy.count() == 2
            assert (copy.api_key, copy.return_vectors) == ("of this process", True)
            assert copy.client_options == {"pool_size": 2}
        with QdrantChunkStore.from_dict(store.to_dict()) as again:
            assert again.count() == 2
