"""A folder into Qdrant on a Ray cluster: every worker loads the encoder once, and writes by itself.

On this machine, into a folder: python examples/ray_ingestion.py FOLDER --store qdrant-data
On a cluster with a GPU for each of 8 workers, into a server:

    ray job submit --address http://HEAD:8265 --working-dir . \
        --runtime-env-json '{"env_vars": {"QDRANT_URL": "http://qdrant:6333", "QDRANT_API_KEY": "..."}}' \
        -- python examples/ray_ingestion.py /shared/texts --workers 8 --gpus 1
"""

from __future__ import annotations

import argparse
import os
from functools import partial

import ray
from llama_index.core import SimpleDirectoryReader

from rag_embed import ContextualEmbedding, QdrantChunkStore, join_pages
from rag_embed.llamaindex.ray_corpus import RayCorpus

PART = 10_000
"""Documents that are in the driver's memory at once."""


def open_store(folder: str | None) -> QdrantChunkStore:
    """Called in each worker, whose environment has the key."""
    if folder is not None:
        return QdrantChunkStore("docs", path=folder, lexical=True)
    url, key = os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY")
    return QdrantChunkStore("docs", url=url, api_key=key, lexical=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--store", default=None, help="folder of the embedded engine; without it QDRANT_URL")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    options = parser.parse_args()
    ray.init()
    corpus = RayCorpus(
        partial(open_store, options.store),
        embed_model=ContextualEmbedding(strategy="late"),
        workers=options.workers,
        num_gpus=options.gpus,
    )
    documents = join_pages(SimpleDirectoryReader(options.folder, recursive=True).load_data())
    for start in range(0, len(documents), PART):
        done = corpus.update(documents[start : start + PART])
        print(f"{done.sync.chunks} chunks, {done.sync.embedded} of them embedded now")
        for document_id, reason in done.failures.items():
            print(f"not stored: {document_id}: {reason}")


if __name__ == "__main__":
    main()
