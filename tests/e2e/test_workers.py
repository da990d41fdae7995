"""Worker processes: spawned by `run`, forked by `arun` on Linux; offline, and with a busy parent."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from tests.test_llamaindex_contract import offline_environment, run_python

SCRIPT = """
import asyncio, json, pathlib, pydoc_data.topics, sys, threading, time

from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter

from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.stamp import tokens_of

TOPICS = pydoc_data.topics.topics


def read():
    return [Document(text=TOPICS[name][:1500], id_=name) for name in ("lists", "assert", "lambda", "pass")]


def facts(nodes):
    return [
        (node.node_id, node.ref_doc_id, node.text, node.metadata, node.embedding, tokens_of(node).tolist())
        for node in nodes
    ]


def main():
    report = {}

    def check(name, pipeline, run):
        wanted = facts(pipeline.run(documents=read()))
        assert len(wanted) >= 4
        started = time.monotonic()
        report[name] = {"same": facts(run(pipeline)) == wanted, "seconds": time.monotonic() - started}

    def spawn(pipeline):
        return pipeline.run(documents=read(), num_workers=2)

    def fork(pipeline):
        return asyncio.run(pipeline.arun(documents=read(), num_workers=2))

    def fork_while_busy(pipeline):
        # Another thread is inside the encoder at the moment of the fork.
        lock = pipeline.transformations[-1].encoder._lock
        with lock:
            return fork(pipeline)

    tiny = ContextualEmbedding(model=sys.argv[1], device="cpu", dtype="float32")
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=80, chunk_overlap=20))
    embedding_parser = parser.model_copy(update={"embed_model": tiny})
    minilm = ContextualEmbedding(device="cpu", dtype="float32")

    def pipeline_of(*transformations):
        return IngestionPipeline(transformations=list(transformations), disable_cache=True)

    check("spawn", pipeline_of(parser, tiny), spawn)
    check("fork", pipeline_of(embedding_parser, tiny), fork)
    check("fork, two threads", pipeline_of(LateChunkingNodeParser(), minilm), fork)
    check("fork, busy", pipeline_of(parser, tiny), fork_while_busy)
    print("REPORT " + json.dumps(report))


if __name__ == "__main__":
    main()
"""


def test_workers_give_the_same_bits(tmp_path: Path, tiny_folder: Path) -> None:
    """No hang, no download, and the same ids, texts, metadata, vectors and token vectors as without."""
    script = tmp_path / "workers.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    env = offline_environment(tmp_path, OMP_NUM_THREADS="2")
    returncode, output = run_python(script, str(tiny_folder), env=env, timeout_s=150)
    assert returncode == 0, output
    report = json.loads(next(line for line in output.splitlines() if line.startswith("REPORT "))[7:])
    assert {name: result["same"] for name, result in report.items()} == {
        "spawn": True,
        "fork": True,
        "fork, two threads": True,
        "fork, busy": True,
    }
