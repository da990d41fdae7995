"""A Qdrant server on loopback: the REST routes that rag-embed uses, over the client's own local mode.

Every body is validated by the strict request model of qdrant-client that the route takes, so that what only a
lenient server would accept fails here. `fail_with` makes the next requests fail as a real server's would.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from qdrant_client import QdrantClient, models

from rag_embed.qdrant.local_bits import restore_bits
from rag_embed.qdrant.port import StoredPoint

INSERT = TypeAdapter(models.PointsList)
SELECTOR = TypeAdapter(models.FilterSelector)


@dataclass(frozen=True)
class Failure:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    only: str = ""
    """Method and path must contain this text."""


class StandIn:
    """State of the stand-in server.

    Attributes:
        requests: "METHOD path" of each request, in order.
        queries: Each query, in order; the local mode behind answers all of them exactly.
        api_key: What requests must carry, if set.
        remembers_metadata: False for a server before 1.16.
    """

    def __init__(self) -> None:
        self.database = QdrantClient(location=":memory:")
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.queries: list[models.QueryRequest] = []
        self.indexes: dict[str, dict[str, str]] = {}
        self.index_params: dict[str, dict[str, Any]] = {}
        self.created: dict[str, models.CreateCollection] = {}
        self.shard_keys: dict[str, list[int | str]] = {}
        self.shard_of: dict[str, dict[int | str, int | str]] = {}
        self.snapshots: dict[str, dict[str, list[models.Record]]] = {}
        self.failures: deque[Failure] = deque()
        self.api_key: str | None = None
        self.remembers_metadata = True
        self.url = ""

    def fail_with(self, *failures: Failure) -> None:
        self.failures.extend(failures)

    def sent(self, text: str) -> list[str]:
        return [request for request in self.requests if text in request]

    def answer(self, method: str, path: str, body: bytes) -> Any:
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if method in ("PUT", "POST") and parts[2:] and parts[2] == "points" and method == "PUT":
            assert "wait=true" in path, f"{path}: a write that does not wait"
        if parts == ["aliases"]:
            return to_jsonable_python(self.database.get_aliases())
        if parts == ["collections", "aliases"]:
            return self.post_aliases(body)
        name, rest = parts[1], "/".join(parts[2:])
        route = getattr(self, f"{method}_{rest or 'collection'}".replace("/", "_").lower())
        return route(name, body)

    def post_aliases(self, body: bytes) -> Any:
        request = models.ChangeAliasesOperation.model_validate_json(body)
        return self.database.update_collection_aliases(request.actions)

    def get_cluster(self, name: str, body: bytes) -> Any:
        """One node that holds a shard of each key."""
        keys = self.shard_keys.get(name, [])
        shards = [
            {"shard_id": number, "shard_key": key, "points_count": 0, "state": "Active"}
            for number, key in enumerate(keys)
        ]
        return {
            "peer_id": 1,
            "shard_count": len(shards),
            "local_shards": shards,
            "remote_shards": [],
            "shard_transfers": [],
        }

    def put_shards(self, name: str, body: bytes) -> Any:
        request = models.CreateShardingKey.model_validate_json(body)
        if not self._is_custom(name) or request.shard_key in self.shard_keys[name]:
            raise ValueError(f"Bad request: shard key {request.shard_key!r}")
        self.shard_keys[name].append(request.shard_key)
        return True

    def _is_custom(self, name: str) -> bool:
        request = self.created.get(name)
        return request is not None and request.sharding_method == models.ShardingMethod.CUSTOM

    def _keys(self, name: str, selector: Any, *, writes: bool = False) -> list[int | str]:
        """The shard keys of a request, which a write to shards by key has to name."""
        if not self._is_custom(name):
            if selector is not None:
                raise ValueError("Bad request: the collection has no shards by key")
            return []
        keys = selector if isinstance(selector, list) else [] if selector is None else [selector]
        if writes and not keys:
            raise ValueError("Bad request: Shard key not specified")
        for key in keys:
            if key not in self.shard_keys[name]:
                raise ValueError(f"Bad request: Shard key {key} not found")
        return keys

    def _within(self, name: str, selector: Any, condition: models.Filter | None) -> models.Filter | None:
        """Let a request find only what lies in the shards that it names."""
        keys = self._keys(name, selector)
        if not keys:
            return condition
        ids = [id_ for id_, key in self.shard_of[name].items() if key in keys]
        inside = models.HasIdCondition(has_id=ids)
        return models.Filter(must=[inside, condition] if condition else [inside])

    def post_snapshots(self, name: str, body: bytes) -> Any:
        """What a snapshot holds are the points; a real one is a file with all of the collection."""
        points = self.database.scroll(name, limit=10_000, with_payload=True, with_vectors=True)[0]
        known = self.snapshots.setdefault(name, {})
        known[f"{name}-{len(known) + 1}.snapshot"] = points
        return self._snapshot(f"{name}-{len(known)}.snapshot")

    def _snapshot(self, title: str) -> Any:
        return {"name": title, "creation_time": "2026-01-01T00:00:00", "size": 1, "checksum": None}

    def get_snapshots(self, name: str, body: bytes) -> Any:
        return [self._snapshot(title) for title in self.snapshots.get(name, {})]

    def put_snapshots_recover(self, name: str, body: bytes) -> Any:
        request = models.SnapshotRecover.model_validate_json(body)
        points = self.snapshots[name][request.location.rpartition("/")[2]]
        self.database.delete(name, models.FilterSelector(filter=models.Filter()))
        structs = [models.PointStruct(id=p.id, payload=p.payload, vector=p.vector) for p in points]
        self.database.upsert(name, structs)
        return True

    def get_exists(self, name: str, body: bytes) -> Any:
        return {"exists": self.database.collection_exists(name)}

    def get_collection(self, name: str, body: bytes) -> Any:
        info = to_jsonable_python(self.database.get_collection(name))
        params = self.index_params.get(name, {})
        info["payload_schema"] = {
            key: {"data_type": kind, "params": params.get(key), "points": 0}
            for key, kind in self.indexes.get(name, {}).items()
        }
        self._add_what_local_mode_forgets(name, info["config"])
        return info

    def _add_what_local_mode_forgets(self, name: str, config: dict[str, Any]) -> None:
        """Say of a collection what it was made with, as a server does."""
        request = self.created.get(name)
        if request is None:
            return
        names = ("shard_number", "replication_factor", "write_consistency_factor", "sharding_method")
        for key in (*names, "on_disk_payload"):
            if (value := getattr(request, key)) is not None:
                config["params"][key] = to_jsonable_python(value)
        if request.hnsw_config is not None:
            config["hnsw_config"] |= request.hnsw_config.model_dump(mode="json", exclude_none=True)

    def put_collection(self, name: str, body: bytes) -> Any:
        request = models.CreateCollection.model_validate_json(body)
        metadata = request.metadata if self.remembers_metadata else None
        created = self.database.create_collection(
            name,
            vectors_config=request.vectors,
            sparse_vectors_config=request.sparse_vectors,
            metadata=metadata,
        )
        self.indexes[name] = {}
        self.created[name] = request
        self.shard_keys[name], self.shard_of[name] = [], {}
        return created

    def patch_collection(self, name: str, body: bytes) -> Any:
        request = models.UpdateCollection.model_validate_json(body)
        if self.remembers_metadata:
            self.database.update_collection(name, metadata=request.metadata)
        return True

    def delete_collection(self, name: str, body: bytes) -> Any:
        self.indexes.pop(name, None)
        return self.database.delete_collection(name)

    def put_index(self, name: str, body: bytes) -> Any:
        request = models.CreateFieldIndex.model_validate_json(body)
        schema = to_jsonable_python(request.field_schema)
        self.indexes[name][request.field_name] = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(schema, dict):
            self.index_params.setdefault(name, {})[request.field_name] = schema
        return {"operation_id": 1, "status": "completed"}

    def put_points(self, name: str, body: bytes) -> Any:
        assert len(body) < 5_000_000, f"a request of {len(body):,} bytes"
        request = INSERT.validate_json(body)
        keys = self._keys(name, request.shard_key, writes=True)
        self.shard_of.setdefault(name, {}).update(
            {_plain(point.id): key for point in request.points for key in keys}
        )
        done = self.database.upsert(name, request.points, update_filter=request.update_filter)
        if request.update_filter is None:
            self._leave_unit_vectors(name, request.points)
        return to_jsonable_python(done)

    def _leave_unit_vectors(self, name: str, points: list[models.PointStruct]) -> None:
        """Keep the bits of unit vectors, as the server does and the local mode behind this does not."""
        for point in points:
            units = {
                key: vector
                for key, vector in (point.vector.items() if isinstance(point.vector, dict) else ())
                if isinstance(vector, list)
                and (np.abs(np.square(np.asarray(vector, np.float32)).sum(axis=-1) - 1.0) <= 1e-6).all()
            }
            restore_bits(self.database, name, [StoredPoint(_plain(point.id), {}, others=units)], "")

    def post_points(self, name: str, body: bytes) -> Any:
        request = models.PointRequest.model_validate_json(body)
        self._keys(name, request.shard_key)
        found = self.database.retrieve(
            name, request.ids, with_payload=request.with_payload, with_vectors=request.with_vector
        )
        return to_jsonable_python(found)

    def post_points_scroll(self, name: str, body: bytes) -> Any:
        request = models.ScrollRequest.model_validate_json(body)
        points, following = self.database.scroll(
            name,
            scroll_filter=self._within(name, request.shard_key, request.filter),
            limit=request.limit,
            offset=request.offset,
            with_payload=request.with_payload,
            with_vectors=request.with_vector,
        )
        return {"points": to_jsonable_python(points), "next_page_offset": following}

    def post_points_query(self, name: str, body: bytes) -> Any:
        request = models.QueryRequest.model_validate_json(body)
        self.queries.append(request)
        found = self.database.query_points(
            name,
            query=request.query,
            prefetch=request.prefetch,
            using=request.using,
            query_filter=self._within(name, request.shard_key, request.filter),
            limit=request.limit,
            with_payload=request.with_payload,
            with_vectors=request.with_vector,
        )
        return to_jsonable_python(found)

    def post_points_query_batch(self, name: str, body: bytes) -> Any:
        request = models.QueryRequestBatch.model_validate_json(body)
        self.queries += request.searches
        for search in request.searches:
            for stage in search.prefetch if isinstance(search.prefetch, list) else []:
                stage.filter = self._within(name, search.shard_key, stage.filter)
        return to_jsonable_python(self.database.query_batch_points(name, request.searches))

    def post_points_delete(self, name: str, body: bytes) -> Any:
        request = SELECTOR.validate_json(body)
        self._keys(name, request.shard_key, writes=True)
        request.filter = self._within(name, request.shard_key, request.filter) or request.filter
        return to_jsonable_python(self.database.delete(name, models.FilterSelector(filter=request.filter)))

    def post_points_count(self, name: str, body: bytes) -> Any:
        request = models.CountRequest.model_validate_json(body)
        assert request.exact
        condition = self._within(name, request.shard_key, request.filter)
        return {"count": self.database.count(name, count_filter=condition).count}


def _plain(id_: Any) -> int | str:
    """A point's id as the local mode keys it."""
    return id_ if isinstance(id_, int) else str(id_)


def _handler(state: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with state.lock:
                status, headers, result = self.decide(body)
            content = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
            if status >= 400:
                content = json.dumps({"status": {"error": result}, "time": 0.0}).encode()
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def decide(self, body: bytes) -> tuple[int, dict[str, str], Any]:
            request = f"{self.command} {self.path}"
            state.requests.append(request)
            if state.api_key is not None and self.headers.get("api-key") != state.api_key:
                return 401, {}, "Must provide an API key or an Authorization bearer token"
            if state.failures and state.failures[0].only in request:
                failure = state.failures.popleft()
                return failure.status, failure.headers, "made to fail"
            try:
                return 200, {}, state.answer(self.command, self.path, body)
            except ValidationError as error:
                return 400, {}, f"Format error in JSON body: {error}"
            except ValueError as error:
                missing = re.search("not found", str(error))
                return (404 if missing else 409 if "already exists" in str(error) else 400), {}, str(error)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815

    return Handler


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False


@contextmanager
def serve() -> Iterator[StandIn]:
    """Run the stand-in on a free port."""
    state = StandIn()
    server = Server(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        state.database.close()
