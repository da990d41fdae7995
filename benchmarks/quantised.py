"""What smaller vectors cost: nDCG@10 and bytes per vector of every storage, in the embedded engine.

The chunks of all sets stand in one collection, where a set's queries meet the chunks of the others as well; a
query that ranks inside its document keeps to it by a filter. Vectors: half late, half isolated, both titled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import ScoredDoc, nDCG
from jaxtyping import Float
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from qdrant_client import models

from benchmarks.bootstrap import RESAMPLES, mean_interval
from benchmarks.evalsets import DEFAULT_DOCUMENTS, EvalSet, load_set
from benchmarks.report import CACHE, make_parser, write_report
from corpora.folders import sets_folder
from rag_embed import ContextualEmbedding, QdrantChunkStore
from rag_embed.evaluation import VectorCache
from rag_embed.evaluation.vectors import Vectors, with_options
from rag_embed.qdrant import CollectionSettings, VectorStorage
from rag_embed.qdrant.edge_engine import EdgeEngine
from rag_embed.qdrant.filters import is_of_documents
from rag_embed.qdrant.points import point_to_node
from rag_embed.qdrant.port import Search, run_blocking

TOP_K = 10
COLLECTION = "benchmark"
SETTINGS = CollectionSettings(
    # Codes whatever the number of vectors, and no graph: what is compared are the vectors alone.
    optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1),
    hnsw_config=models.HnswConfigDiff(m=0),
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One storage, and with how many candidates it is searched; None leaves the small form the last word."""

    name: str
    storage: VectorStorage
    oversamplings: tuple[float | None, ...]
    is_rotated: bool = False


def list_arms(dim: int) -> list[Arm]:
    """All storages; the first is what the others are compared with."""
    quarter, half = dim // 4, dim // 2
    return [
        Arm("float32", VectorStorage(), (None,)),
        Arm("float16", VectorStorage(encoding="float16"), (None,)),
        Arm("int8", VectorStorage(encoding="int8"), (None, 3)),
        Arm("binary", VectorStorage(encoding="binary"), (None, 3, 10, 20)),
        Arm(f"prefix of {quarter}", VectorStorage(prefix_dim=quarter), (None, 10)),
        Arm(f"prefix of {half}", VectorStorage(prefix_dim=half), (None, 10)),
        Arm(f"sorted prefix of {quarter}", VectorStorage(prefix_dim=quarter), (None, 10), True),
        Arm(
            f"sorted prefix of {quarter}, int8",
            VectorStorage(prefix_dim=quarter, encoding="int8"),
            (None, 10),
            True,
        ),
    ]


@dataclass
class Pool:
    """All sets in one collection.

    Attributes:
        ids: Of the chunks: set, document and index.
        homes: Document of each chunk.
        chunks: Their vectors.
        queries: Query vectors.
        query_sets: Set of each query.
        golds: Answers of each query, by chunk id.
        scopes: Document that a query ranks inside; None where all chunks compete.
    """

    ids: list[str] = field(default_factory=list)
    homes: list[str] = field(default_factory=list)
    chunks: list[Float[np.ndarray, " dim"]] = field(default_factory=list)
    queries: list[Float[np.ndarray, " dim"]] = field(default_factory=list)
    query_sets: list[str] = field(default_factory=list)
    golds: list[dict[str, int]] = field(default_factory=list)
    scopes: list[str | None] = field(default_factory=list)

    def take(self, evalset: EvalSet, model: ContextualEmbedding, *, query_count: int) -> None:
        """Add a set's chunks, and some of its queries."""
        vectors = Vectors(evalset.documents, cache=VectorCache(CACHE / "vectors"))
        unadapted = with_options(model, strategy="blend", adapter=None)
        self.chunks += list(vectors.chunks(unadapted, with_title=evalset.has_titles).numpy())
        self.ids += [f"{evalset.name}/{chunk}" for chunk in evalset.chunk_ids]
        self.homes += [f"{evalset.name}/{doc.doc_id}" for doc in evalset.documents for _ in doc.spans]
        asked = vectors.queries(model, list(evalset.queries.values())).numpy()
        keys = list(evalset.queries)
        for row in np.sort(np.random.default_rng(0).permutation(len(keys))[:query_count]):
            golds = {f"{evalset.name}/{chunk}": grade for chunk, grade in evalset.golds[keys[row]].items()}
            self.queries.append(asked[row])
            self.query_sets.append(evalset.name)
            self.golds.append(golds)
            home = next(iter(golds)).rpartition("#")[0]
            self.scopes.append(home if evalset.is_within_document else None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm found with one number of candidates."""

    name: str
    oversampling: float | None
    searched_bytes: float
    disk_bytes: float
    found: list[list[str]]


def try_arm(arm: Arm, pool: Pool) -> Iterator[Outcome]:
    """Store all chunks in one way and ask every query."""
    chunks, queries = np.stack(pool.chunks), np.stack(pool.queries)
    if arm.is_rotated:
        # Cosines stay what they are, and the first components come to carry the most: what Matryoshka
        # training does for a model, here by the principal axes of the chunks.
        _, axes = np.linalg.eigh(chunks.T.astype(np.float64) @ chunks)
        chunks, queries = chunks @ axes[:, ::-1], queries @ axes[:, ::-1]
    with tempfile.TemporaryDirectory(prefix="rag-embed-benchmark-") as folder:
        with QdrantChunkStore(COLLECTION, path=folder, storage=arm.storage, settings=SETTINGS) as store:
            store.add(list(_make_nodes(pool, chunks)))
            store.optimize()
            searched_bytes, disk_bytes = measure_bytes(Path(folder), arm.storage)
        for oversampling in arm.oversamplings:
            storage = arm.storage.model_copy(update={"oversampling": oversampling})
            with QdrantChunkStore(COLLECTION, path=folder, storage=storage) as store:
                is_whole = str(arm.storage) in ("float32", "float16")
                ask = _ask if oversampling is not None or is_whole else _ask_small_form
                found = [ask(store, q.tolist(), scope) for q, scope in zip(queries, pool.scopes, strict=True)]
            count = len(chunks)
            yield Outcome(arm.name, oversampling, searched_bytes / count, disk_bytes / count, found)


def measure_bytes(folder: Path, storage: VectorStorage) -> tuple[int, int]:
    """Bytes that the first stage reads, and all bytes of vectors on disk."""
    searched = "*-prefix" if storage.prefix_dim is not None else "*-dense"
    content = "quantized.data" if storage.encoding in ("int8", "binary") else "matrix.dat"
    stored = [file for name in ("matrix.dat", "quantized.data") for file in folder.rglob(name)]
    first = [file for file in stored if file.parent.match(searched) and file.name == content]
    if not first:
        raise RuntimeError(f"no {content} in {searched}; the engine keeps its vectors elsewhere by now")
    return sum(file.stat().st_size for file in first), sum(file.stat().st_size for file in stored)


def compare(pool: Pool, outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Quality of each outcome, and its difference to the first, which is exact."""
    exact = outcomes[0]
    baseline = score(pool, exact.found)
    rows: list[dict[str, object]] = []
    for outcome in outcomes:
        scores = score(pool, outcome.found)
        shared = [len({*a} & {*b}) / len(b) for a, b in zip(outcome.found, exact.found, strict=True)]
        difference = scores - baseline
        rows.append(
            {
                "storage": outcome.name,
                "oversampling": outcome.oversampling,
                "searched_bytes": round(outcome.searched_bytes, 1),
                "disk_bytes": round(outcome.disk_bytes, 1),
                "ndcg_10": round(float(scores.mean()), 4),
                "ndcg_10_difference": [round(x, 4) for x in mean_interval(difference)],
                "nearest_found": round(float(np.mean(shared)), 4),
                "ndcg_10_difference_by_set": _means_by_set(pool.query_sets, difference),
            }
        )
    return rows


def score(pool: Pool, found: Sequence[Sequence[str]]) -> Float[np.ndarray, " queries"]:
    """nDCG@10 of each query."""
    qrels = {str(row): golds for row, golds in enumerate(pool.golds)}
    run = [
        ScoredDoc(str(row), chunk, -float(place))
        for row, chunks in enumerate(found)
        for place, chunk in enumerate(chunks)
    ]
    values = {metric.query_id: metric.value for metric in ir_measures.iter_calc([nDCG @ TOP_K], qrels, run)}
    return np.array([values[str(row)] for row in range(len(found))])


def _make_nodes(pool: Pool, chunks: Float[np.ndarray, "chunks dim"]) -> Iterator[TextNode]:
    for id_, home, vector in zip(pool.ids, pool.homes, chunks.tolist(), strict=True):
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=home)}
        yield TextNode(id_=id_, text="", embedding=vector, relationships=source)


def _ask(store: QdrantChunkStore, vector: list[float], scope: str | None) -> list[str]:
    doc_ids = None if scope is None else [scope]
    found = store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=TOP_K, doc_ids=doc_ids))
    return list(found.ids or [])


def _ask_small_form(store: QdrantChunkStore, vector: list[float], scope: str | None) -> list[str]:
    """Search without the second stage, which the store itself never leaves out."""
    schema = store.info()
    assert schema is not None
    name, prefix = schema.vector_name, schema.prefix
    if prefix is not None:
        name, vector = prefix.name, vector[: prefix.dim]
    condition = models.Filter(must=[is_of_documents([scope])]) if scope is not None else None
    engine = store.client
    assert isinstance(engine, EdgeEngine)
    points = run_blocking(engine.search(Search(vector, name, TOP_K, condition)))
    return [point_to_node(point, "text").node_id for point in points]


def _means_by_set(sets: Sequence[str], values: Float[np.ndarray, " queries"]) -> Mapping[str, float]:
    names = np.array(sets)
    return {name: round(float(values[names == name].mean()), 4) for name in dict.fromkeys(sets)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    parser.add_argument("--queries", type=int, default=100, help="of each set")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    pool = Pool()
    for name in options.sets or DEFAULT_DOCUMENTS:
        if not (sets_folder() / name / "corpus.jsonl").is_file():
            print(f"{name}: skipped, it is not in $RAG_EMBED_EVAL nor in ../shared/eval")
            continue
        evalset = load_set(name, documents=2 if options.quick else DEFAULT_DOCUMENTS[name])
        pool.take(evalset, model, query_count=5 if options.quick else options.queries)
    if not pool.queries:
        print("quantised: nothing measured, no set was found")
        return
    dim = len(pool.chunks[0])
    outcomes: list[Outcome] = []
    for arm in list_arms(dim):
        outcomes += try_arm(arm, pool)
        print(f"{arm.name}: {len(pool.queries)} queries")
    profile = model.encoder.profile
    write_report(
        "quantised",
        options,
        model=f"{profile.name}, sha256 {profile.weights_sha256[:12]}, float32, {dim} dimensions",
        data=f"{len(pool.ids):,} chunks of {', '.join(dict.fromkeys(pool.query_sets))}, in one collection",
        n=len(pool.queries),
        interval=f"95 % paired bootstrap over queries, {RESAMPLES} resamples",
        results={"rows": compare(pool, outcomes)},
    )


if __name__ == "__main__":
    main()
