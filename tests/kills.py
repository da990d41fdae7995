"""Commands that are killed at a moment and run again, in children of a process that has imported everything.

`python -m tests.kills` is that process: it reads orders as JSON lines, forks a child for each, kills it if it
is told to, and answers with its exit status. Importing everything takes seconds and a fork takes none, so
hundreds of kills fit into minutes. A moment is a number of calls inside of rag_embed, the same in every run,
or of seconds, which also falls into what is compiled, or of calls that write to the disk.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
_CODE = str(ROOT / "rag_embed")

SENTENCES = (
    "The {0} stands at the river and has been open to the people of the city since the great flood.",
    "Behind the house there is a garden with old apple trees and a bridge of {0} stone.",
    "On sundays a choir sings in the hall of the {0}, and children ring the bell above the gate.",
    "In winter the {0} is closed, but the capital sends a guard who looks after its roof and its walls.",
)
HOUSES = ("museum", "library", "archive", "castle", "tower", "school")
_IMPORTED = (
    "bm25s",
    "ir_measures",
    "peft",
    "rag_embed.cli.app",
    "rag_embed.indexes.migrating",
    "rag_embed.files.reading",
    "rag_embed.evaluation.comparison",
    "rag_embed.llamaindex.corpus",
    "rag_embed.qdrant.edge_engine",
    "rag_embed.training.adaptation",
    "transformers.models.bert.modeling_bert",
)
_WRITES = {
    *("EdgeShard.create", "EdgeShard.load", "EdgeShard.update", "EdgeShard.flush", "EdgeShard.optimize"),
    *("Connection.execute", "Connection.executemany", "Connection.commit", "connect"),
    *("fsync", "mkdir", "rename", "replace", "rmdir", "unlink", "TextIOWrapper.write"),
}
OPERATIONS = ("index", "replace", "delete", "optimize", "migrate", "train", "evaluate")


def write_documents(folder: Path, *, version: int = 1) -> None:
    """Write six files; in version 2 half of them are others, in version 3 half of them are gone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, house in enumerate(HOUSES):
        if version == 3 and number % 2:
            continue
        name = f"new {house}" if version == 2 and number % 2 else house
        parts = [sentence.format(name) for sentence in SENTENCES]
        (folder / f"{house}.md").write_text("\n\n".join(parts), encoding="utf-8")


@dataclass
class Moment:
    """When a child is killed: at such a call inside of rag_embed, such a write, or after so many seconds.

    Each write counts twice, before it is made and after it.
    """

    calls: int | None = None
    seconds: float | None = None
    writes: int | None = None


@dataclass
class Ended:
    """How a child ended: its exit status (negative for a signal), what it wrote, and how much it did."""

    status: int
    output: str
    errors: str
    calls: int
    writes: int
    seconds: float


class Forge:
    """Starts children out of one process that has everything imported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kills"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(self, operation: str, *words: object, moment: Moment | None = None) -> Ended:
        """Run one child to its end, or to the moment at which it is killed."""
        moment = moment or Moment()
        order = {
            "operation": operation,
            "words": [str(word) for word in words],
            "folder": str(self._folder),
            "calls": moment.calls,
            "seconds": moment.seconds,
            "writes": moment.writes,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@dataclass
class Yard:
    """A folder in which every trial begins with the same files at the same paths.

    Attributes:
        folder: Where trials are made.
        model: Checkpoint of a tiny encoder.
        kills: How many children were killed before their end.
    """

    folder: Path
    model: Path
    forge: Forge = field(init=False)
    whole: dict[str, tuple[Any, Ended]] = field(default_factory=dict)
    kills: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.forge = Forge(self.folder)
        self._indexed = self.folder / "indexed"
        write_documents(self.folder / "docs")
        ended = self._run("index")
        assert ended.status == 0, ended.errors
        shutil.copytree(self.folder / "store", self._indexed)

    def begin(self, operation: str) -> None:
        """Lay out the files as they are before an operation."""
        for name in ("store", "adapter", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        write_documents(self.folder / "docs", version={"replace": 2, "delete": 3}.get(operation, 1))
        if operation in ("replace", "delete", "optimize", "migrate"):
            shutil.copytree(self._indexed, self.folder / "store")

    def undisturbed(self, operation: str) -> tuple[Any, Ended]:
        """The final state of a run that nothing ended, and how long it took; run once."""
        if operation not in self.whole:
            self.begin(operation)
            ended = self._run(operation)
            assert ended.status == 0, ended.errors
            state = self.state(operation, ended)
            self.begin(operation)
            counted = self._run(operation, Moment(calls=sys.maxsize))
            assert counted.status == 0, counted.errors
            whole = replace(ended, calls=counted.calls, writes=counted.writes)
            self.whole[operation] = (state, whole)
        return self.whole[operation]

    def trial(self, operation: str, seed: int) -> str:
        """Kill an operation, once or twice, run it again, and say how the end differs; empty if equal.

        Args:
            operation: One of `OPERATIONS`.
            seed: Of the moments. Even ones are counted in calls, odd ones in seconds.
        """
        wanted, whole = self.undisturbed(operation)
        generator = random.Random(f"{operation} {seed}")
        self.begin(operation)
        for _ in range(1 + (generator.random() < 0.2)):
            share = generator.random()
            moment = (
                Moment(seconds=share * whole.seconds) if seed % 2 else Moment(calls=int(share * whole.calls))
            )
            killed = self._run(operation, moment)
            if killed.status == 0 and moment.seconds is not None:
                # The machine was busier when the whole run was timed: the moment came after the end.
                self.begin(operation)
                killed = self._run(operation, Moment(calls=int(share * whole.calls)))
            self.kills += killed.status == -signal.SIGKILL
            if killed.status not in (0, -signal.SIGKILL):
                return f"killed again, it failed before: {killed.errors[-400:]}"
        return self._run_again(operation, wanted)

    def trial_at_write(self, operation: str, number: int) -> str:
        """Kill an operation before (odd) or after (even) a write, and run it again, as `trial` does."""
        wanted, _ = self.undisturbed(operation)
        self.begin(operation)
        killed = self._run(operation, Moment(writes=number))
        if killed.status != -signal.SIGKILL:
            return f"there was no write {number}: {killed.status} {killed.errors[-400:]}"
        self.kills += 1
        return self._run_again(operation, wanted)

    def _run_again(self, operation: str, wanted: Any) -> str:
        ended = self._run(operation)
        if ended.status != 0:
            return f"run again, it failed ({ended.status}): {ended.errors[-400:]}"
        found = self.state(operation, ended)
        return "" if found == wanted else f"another state: {_first_difference(found, wanted)}"

    def state(self, operation: str, ended: Ended) -> Any:
        """All that an operation leaves."""
        if operation == "train":
            files = {path.name: path.read_bytes().hex() for path in (self.folder / "adapter").iterdir()}
            return {"printed": _without_command(ended.output), **files}
        if operation == "evaluate":
            with closing(sqlite3.connect(self.folder / "cache" / "vectors.sqlite")) as connection:
                rows = connection.execute("SELECT key, floats FROM matrices ORDER BY key").fetchall()
            return {
                "printed": _without_command(ended.output),
                "rows": [[key.hex(), floats.hex()] for key, floats in rows],
            }
        dumped = self.forge.run("dump", self.folder / "store")
        assert dumped.status == 0, dumped.errors
        return json.loads(dumped.output)

    def close(self) -> None:
        """End the process that children are forked from."""
        self.forge.close()

    def _run(self, operation: str, moment: Moment | None = None) -> Ended:
        store, docs = self.folder / "store", self.folder / "docs"
        if operation == "optimize":
            return self.forge.run("optimize", store, moment=moment)
        if operation == "migrate":  # its documents are nowhere but in the store
            newer = ("--to-model", self.model.with_name("newer"), "--store", store)
            return self.forge.run("command", "migrate", *newer, moment=moment)
        model = ("--model", self.model, "--chunk-size", 48)
        asked = ("--docs", docs, *model, "--json")
        words: dict[str, tuple[object, ...]] = {
            "train": ("train", *asked, "--steps", 4, "--out", self.folder / "adapter"),
            "evaluate": ("evaluate", *asked, "--arms", "late, bm25", "--cache", self.folder / "cache"),
        }
        indexing = ("index", docs, *model, "--words", "--tokens", "--store", store)
        return self.forge.run("command", *words.get(operation, indexing), moment=moment)


def _without_command(output: str) -> Any:
    """What a command printed as JSON, without how it was called and how busy the machine was."""
    printed = json.loads(output)
    evaluation = printed.get("evaluation", printed)
    for name in ("command", "machine"):
        evaluation["settings"].pop(name, None)
    for arm in evaluation["arms"]:
        arm.pop("cost", None)  # times of this run
    return printed


def _first_difference(found: Any, wanted: Any, place: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        key = next(key for key in found if found[key] != wanted[key])
        return _first_difference(found[key], wanted[key], f"{place}/{key}")
    return f"at {place or 'the top'}: {str(found)[:200]} instead of {str(wanted)[:200]}"


# --- what runs in the process that children are forked from ------------------------------------------


def _serve() -> None:
    """Import everything, then fork a child for each order."""
    for module in _IMPORTED:
        importlib.import_module(module)
    from llama_index.core.node_parser import SentenceSplitter

    # It reads tables of words and sentences at its first text that is longer than a chunk.
    SentenceSplitter(chunk_size=20, chunk_overlap=0).split_text("It reads its tables now. " * 9)
    for line in sys.stdin:
        order = json.loads(line)
        folder = Path(order["folder"])
        files = {name: folder / f"{name}.txt" for name in ("output", "errors", "counts")}
        for file in files.values():
            file.write_text("")
        begin = time.perf_counter()
        child = os.fork()
        if child == 0:
            _be_child(order, files)
        if order["seconds"] is not None:
            time.sleep(order["seconds"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        ended = {
            "status": os.waitstatus_to_exitcode(status),
            "output": files["output"].read_text(),
            "errors": files["errors"].read_text(),
            **json.loads(files["counts"].read_text() or '{"calls": 0, "writes": 0}'),
            "seconds": time.perf_counter() - begin,
        }
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


def _be_child(order: dict[str, Any], files: dict[str, Path]) -> None:
    """Do what was ordered, and end without coming back."""
    status = 1
    try:
        for descriptor, name in ((1, "output"), (2, "errors")):
            opened = os.open(files[name], os.O_WRONLY)
            os.dup2(opened, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(order["folder"])
        counts: dict[str, int] = {"calls": 0, "writes": 0}
        if order["calls"] is not None or order["writes"] is not None:
            _count_calls(counts, {"calls": order["calls"], "writes": order["writes"]})
        status = _OPERATIONS[order["operation"]](order["words"])
        sys.setprofile(None)
        files["counts"].write_text(json.dumps(counts))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _count_calls(counts: dict[str, int], last: dict[str, int | None]) -> None:
    """Count calls and returns in our code, those into compiled code too, and writes; the last ends all."""

    def count(name: str) -> None:
        counts[name] += 1
        if counts[name] == last[name]:
            os.kill(os.getpid(), signal.SIGKILL)

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename.startswith(_CODE):
            count("calls")
        if event in {"c_call", "c_return"} and getattr(argument, "__qualname__", "") in _WRITES:
            count("writes")

    threading.setprofile(profile)
    sys.setprofile(profile)


def _command(words: list[str]) -> int:
    from rag_embed.cli import main

    sys.argv = ["rag-embed", *words]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _optimize(words: list[str]) -> int:
    from rag_embed.qdrant import QdrantChunkStore

    with QdrantChunkStore("documents", path=words[0]) as store:
        store.optimize()
    return 0


def _dump(words: list[str]) -> int:
    """Print everything that an index holds."""
    sys.stdout.write(json.dumps(read_everything(Path(words[0]))))
    return 0


def read_everything(folder: Path) -> dict[str, Any]:
    """Everything that an index in a folder holds, words and token vectors too, as JSON can hold it."""
    import qdrant_edge

    from rag_embed.indexes.opening import Place
    from rag_embed.qdrant.points import point_id

    with Place("documents", folder).open() as store:
        nodes = sorted(store.get_nodes(), key=lambda node: node.node_id)
        info = store.info()
        content: dict[str, Any] = {
            "count": store.count(),
            "schema": repr(info and replace(info, collection_name="")),
            "ids": [node.node_id for node in nodes],
            "nodes": {node.node_id: [node.get_content(), node.metadata, node.embedding] for node in nodes},
        }
    shard = qdrant_edge.EdgeShard.load(str(folder / store.collection_name / "shard"))
    ids: list[int | uuid.UUID | str] = [point_id(node.node_id) for node in nodes]
    points = shard.retrieve(ids, with_payload=False, with_vector=True)
    content["vectors"] = {str(point.id): _plain(point.vector) for point in points}
    return content


def _plain(vectors: Any) -> dict[str, Any]:
    """The vectors of a point by name, as JSON has them; a sparse one as pairs of its term and its weight."""
    plain = dict(vectors)
    words = plain["lexical"]
    plain["lexical"] = sorted(zip(words.indices, words.values, strict=True))
    return plain


_OPERATIONS = {"command": _command, "optimize": _optimize, "dump": _dump}


if __name__ == "__main__":
    _serve()
