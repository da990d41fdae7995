"""What this package relies on in llama-index-core: each test runs LlamaIndex alone, without rag_embed.

A failure here is news, not a defect of ours: the pinned LlamaIndex behaves in a new way, and the design
choice named in the test's docstring should be looked at again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_index.core
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.node_parser import HierarchicalNodeParser, MarkdownNodeParser, SentenceSplitter
from llama_index.core.node_parser.node_utils import build_nodes_from_splits
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import PrivateAttr

Vector = list[float]

BERLIN = "Berlin is a city. It has many lakes. The mayor lives there. Trains leave every hour."
LIMA = "Lima is by the sea. It has many hills. The mayor left. Buses leave every day."


def hash_vector(text: str) -> Vector:
    """Map a text to eight numbers in [-1, 1), each text to its own."""
    return [byte / 128 - 1 for byte in hashlib.sha256(text.encode()).digest()[:8]]


def context_vector(document_text: str, chunk_text: str) -> Vector:
    """Stand in for a late chunk vector: it depends on the chunk and on its whole document."""
    return hash_vector(f"{document_text}\0{chunk_text}")


class HashEmbedding(BaseEmbedding):
    """An ordinary embedding model; `salt` is an option that changes its vectors."""

    salt: str = ""

    def _get_text_embedding(self, text: str) -> Vector:
        return hash_vector(self.salt + text)

    def _get_query_embedding(self, query: str) -> Vector:
        return hash_vector(f"{self.salt}query: {query}")

    async def _aget_query_embedding(self, query: str) -> Vector:
        return self._get_query_embedding(query)


class PrivateHashEmbedding(HashEmbedding):
    """The same model, but the option that changes its vectors is a private attribute."""

    _private_salt: str = PrivateAttr()

    def __init__(self, private_salt: str = "initial", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._private_salt = private_salt

    def _get_text_embedding(self, text: str) -> Vector:
        return hash_vector(self._private_salt + text)


class LockedEmbedding(HashEmbedding):
    """A model with a public field that pickle refuses."""

    lock: Any = None


class PickyEmbedding(HashEmbedding):
    """A model whose __init__ does not accept its inherited fields by name."""

    _starts: int = PrivateAttr(default=0)

    def __init__(self, salt: str = "") -> None:
        super().__init__(salt=salt)
        self._starts = 1


class ContextSplitter(SentenceSplitter):
    """A parser that also embeds, as a late-chunking parser does; it remembers the kwargs it was given."""

    _kwargs_seen: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    def _parse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        self._kwargs_seen.append(kwargs)
        chunks = super()._parse_nodes(nodes, show_progress=show_progress)
        texts = {node.node_id: node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes}
        for chunk in chunks:
            chunk.embedding = context_vector(texts[chunk.ref_doc_id or ""], chunk.get_content())
        return chunks


class OffsetSplitter(SentenceSplitter):
    """A parser that knows the true offsets of its chunks and sets them."""

    def _parse_nodes(
        self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any
    ) -> list[BaseNode]:
        chunks = super()._parse_nodes(nodes, show_progress=show_progress)
        for chunk, start in zip(chunks, true_starts([chunk.get_content() for chunk in chunks]), strict=True):
            chunk.start_char_idx = start
        return chunks


class RestoringSplitter(OffsetSplitter):
    """The same, and it puts its offsets back after LlamaIndex has recomputed them."""

    def _postprocess_parsed_nodes(
        self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]
    ) -> list[BaseNode]:
        starts = [node.start_char_idx for node in nodes]
        nodes = super()._postprocess_parsed_nodes(nodes, parent_doc_map)
        for node, start in zip(nodes, starts, strict=True):
            node.start_char_idx = start
        return nodes


class TextKeepingStore(SimpleVectorStore):
    """LlamaIndex's in-memory store, declared to keep text as Qdrant does: `from_vector_store` needs it."""

    stores_text: bool = True


def splitter(words: int = 8, kind: type[SentenceSplitter] = SentenceSplitter, **kwargs: Any) -> Any:
    """Make a splitter of at most `words` words per chunk, without overlap and without tiktoken."""
    return kind(chunk_size=words, chunk_overlap=0, tokenizer=str.split, **kwargs)


def true_starts(chunk_texts: Sequence[str]) -> list[int]:
    """Give the offsets of chunks that were one space apart in their document."""
    starts = [0]
    for text in chunk_texts[:-1]:
        starts.append(starts[-1] + len(text) + 1)
    return starts


def chunk_texts_of(document: Document) -> list[str]:
    return [node.get_content(metadata_mode=MetadataMode.NONE) for node in splitter()([document])]


def context_vectors_of(*documents: Document) -> list[Vector]:
    """Give the vectors that ContextSplitter makes, sorted."""
    return sorted(context_vector(doc.text, text) for doc in documents for text in chunk_texts_of(doc))


def isolated_vectors_of(*documents: Document) -> list[Vector]:
    """Give the vectors that HashEmbedding makes of the same chunks, sorted."""
    return sorted(hash_vector(text) for doc in documents for text in chunk_texts_of(doc))


def vectors_in(store: SimpleVectorStore) -> list[Vector]:
    return sorted(store.data.embedding_dict.values())


def context_index(*documents: Document) -> tuple[VectorStoreIndex, ContextSplitter]:
    parser = splitter(kind=ContextSplitter)
    index = VectorStoreIndex.from_documents(
        list(documents), transformations=[parser], embed_model=HashEmbedding()
    )
    return index, parser


@pytest.fixture
def document() -> Document:
    return Document(text=BERLIN, id_="berlin")


@pytest.fixture
def other() -> Document:
    return Document(text=LIMA, id_="lima")


# --- who embeds, and when -----------------------------------------------------------------------------------


def test_index_keeps_the_embedding_a_node_already_has() -> None:
    """VectorStoreIndex embeds only nodes without a vector, so a parser may set late vectors before it."""
    preset = TextNode(text="preset", id_="preset", embedding=[9.0] * 8)
    index = VectorStoreIndex([preset, TextNode(text="raw", id_="raw")], embed_model=HashEmbedding())

    assert index.vector_store.get("preset") == [9.0] * 8
    assert index.vector_store.get("raw") == hash_vector("raw")


def test_embedding_transform_overwrites_the_embedding_a_node_already_has(document: Document) -> None:
    """BaseEmbedding.__call__ sets every vector without a sign, so ours skips nodes with its own stamp."""
    nodes = IngestionPipeline(transformations=[splitter(kind=ContextSplitter), HashEmbedding()]).run(
        documents=[document]
    )

    assert sorted(node.embedding for node in nodes) == isolated_vectors_of(document)


async def test_async_embedding_transform_overwrites_too(document: Document) -> None:
    """BaseEmbedding.acall overwrites as __call__ does, so both need our override."""
    nodes = await IngestionPipeline(transformations=[splitter(kind=ContextSplitter), HashEmbedding()]).arun(
        documents=[document]
    )

    assert sorted(node.embedding for node in nodes) == isolated_vectors_of(document)


def test_from_documents_forwards_its_kwargs_to_the_parser_and_insert_does_not(
    document: Document, other: Document
) -> None:
    """The parser sees embed_model= in from_documents but not in insert, so it needs a field of its own."""
    index, parser = context_index(document)
    index.insert(other)

    (from_documents, insert) = parser._kwargs_seen
    assert isinstance(from_documents["embed_model"], HashEmbedding)
    assert "embed_model" not in insert


def test_from_documents_keeps_late_vectors(document: Document, other: Document) -> None:
    """Vectors that the parser set reach the store unchanged: the drop-in of the design works at all."""
    index, _ = context_index(document, other)

    assert vectors_in(index.vector_store) == context_vectors_of(document, other)


def test_insert_runs_the_transformations(document: Document, other: Document) -> None:
    """insert() re-runs the index's parser, so late vectors need no special insert."""
    index, _ = context_index(document)
    index.insert(other)

    assert vectors_in(index.vector_store) == context_vectors_of(document, other)


def test_update_ref_doc_runs_the_transformations(document: Document) -> None:
    """update_ref_doc() deletes a document's chunks and re-runs the parser, so the new ones are late too."""
    index, _ = context_index(document)
    edited = Document(text=LIMA, id_=document.id_)
    index.update_ref_doc(edited)

    assert vectors_in(index.vector_store) == context_vectors_of(edited)


def test_refresh_ref_docs_runs_the_transformations_on_changed_documents_only(
    document: Document, other: Document
) -> None:
    """refresh_ref_docs() re-runs the parser where the hash changed, so late vectors survive a refresh."""
    index, parser = context_index(document, other)
    edited = Document(text=BERLIN + " Night trains are rare.", id_=document.id_)

    assert index.refresh_ref_docs([edited, other]) == [True, False]
    assert len(parser._kwargs_seen) == 2
    assert vectors_in(index.vector_store) == context_vectors_of(edited, other)


def test_insert_nodes_runs_no_transformation(document: Document, other: Document) -> None:
    """insert_nodes() gives raw nodes isolated vectors beside the late ones, so the docs must warn of it."""
    index, _ = context_index(document)
    index.insert_nodes(splitter()([other]))

    assert vectors_in(index.vector_store) == sorted(context_vectors_of(document) + isolated_vectors_of(other))


def test_from_vector_store_falls_back_to_the_global_transformations(
    monkeypatch: pytest.MonkeyPatch, document: Document
) -> None:
    """Without transformations= a re-opened index inserts isolated vectors, so every example must pass it."""
    monkeypatch.setattr(Settings, "transformations", [splitter()])
    store = TextKeepingStore()
    VectorStoreIndex.from_vector_store(store, embed_model=HashEmbedding()).insert(document)

    assert vectors_in(store) == isolated_vectors_of(document)


def test_from_vector_store_uses_the_transformations_it_is_given(document: Document) -> None:
    """With transformations= a re-opened index inserts late vectors: the remedy that our docs give."""
    store = TextKeepingStore()
    VectorStoreIndex.from_vector_store(
        store, embed_model=HashEmbedding(), transformations=[splitter(kind=ContextSplitter)]
    ).insert(document)

    assert vectors_in(store) == context_vectors_of(document)


def test_splits_inherit_the_embedding_of_their_document() -> None:
    """build_nodes_from_splits copies document.embedding into every chunk, so our parser must reset it."""
    embedded = Document(text="one two", embedding=[1.0, 2.0])

    assert [node.embedding for node in build_nodes_from_splits(["one", "two"], embedded)] == [[1.0, 2.0]] * 2
    assert [node.embedding for node in splitter()([embedded])] == [[1.0, 2.0]]


# --- offsets ------------------------------------------------------------------------------------------------


def test_start_char_idx_is_wrong_on_repeated_text() -> None:
    """The offset is the first find() after the previous start, so repeated text needs our own alignment."""
    document = Document(text="Do it all again. " * 12)
    chunks = splitter()([document])

    assert [chunk.start_char_idx for chunk in chunks] == [0, 17, 34, 51, 68, 85]
    assert true_starts([chunk.get_content() for chunk in chunks]) == [0, 34, 68, 102, 136, 170]


def test_start_char_idx_that_a_parser_sets_is_overwritten() -> None:
    """LlamaIndex recomputes offsets after the parser ran, so it is not enough to set the true ones."""
    chunks = splitter(kind=OffsetSplitter)([Document(text="Do it all again. " * 12)])

    assert [chunk.start_char_idx for chunk in chunks] == [0, 17, 34, 51, 68, 85]


async def test_offsets_can_be_restored_after_postprocessing() -> None:
    """Sync and async parsing both end in _postprocess_parsed_nodes: call super there, then restore ours."""
    document = Document(text="Do it all again. " * 12)
    parser = splitter(kind=RestoringSplitter)

    assert [chunk.start_char_idx for chunk in parser([document])] == [0, 34, 68, 102, 136, 170]
    assert [chunk.start_char_idx for chunk in await parser.acall([document])] == [0, 34, 68, 102, 136, 170]


def test_start_char_idx_of_chained_parsers_is_relative_to_the_section_or_missing() -> None:
    """After a first parser the offset is None or counts from the section, so we align to the document."""
    text = (
        "# City\n\nBerlin has lakes here. It has parks there.\n\n"
        "## Trains\n\nTrains leave every hour. They go to Rome.\n\n"
        "## Buses\n\nBuses leave every day. They go to Lima.\n"
    )
    chunks = IngestionPipeline(transformations=[MarkdownNodeParser(), splitter()]).run(
        documents=[Document(text=text)]
    )

    found = [(chunk.start_char_idx, text.index(chunk.get_content())) for chunk in chunks]
    assert found == [(0, 0), (31, 31), (None, 52), (36, 88), (None, 106), (None, 139)]


def test_start_char_idx_of_hierarchical_chunks_counts_from_the_parent_chunk() -> None:
    """HierarchicalNodeParser's offsets below the first level are local, so we must align per level."""
    text = " ".join(f"Sentence {i:02} is about topic {i:02}." for i in range(16))
    document = Document(text=text, id_="d")
    parser = HierarchicalNodeParser.from_defaults(
        node_parser_ids=["parent", "leaf"], node_parser_map={"parent": splitter(24), "leaf": splitter(6)}
    )
    nodes = parser([document])

    parents = [node for node in nodes if NodeRelationship.PARENT not in node.relationships]
    leaves = [node for node in nodes if NodeRelationship.PARENT in node.relationships]
    assert {node.ref_doc_id for node in nodes} == {"d"}
    assert [text.index(node.get_content()) for node in parents] == [node.start_char_idx for node in parents]
    assert [node.start_char_idx for node in leaves] == [0, 31, 62, 93] * 4
    assert [text.index(node.get_content()) for node in leaves] == [31 * i for i in range(16)]


# --- the ingestion cache ------------------------------------------------------------------------------------


def test_cache_key_does_not_see_chunk_boundaries() -> None:
    """The key joins texts without separators: ["a", "bc"] gets the nodes of ["ab", "c"]."""
    pipeline = IngestionPipeline(transformations=[HashEmbedding()])
    pipeline.run(nodes=[TextNode(text="ab"), TextNode(text="c")])
    nodes = pipeline.run(nodes=[TextNode(text="a"), TextNode(text="bc")])

    assert [node.get_content() for node in nodes] == ["ab", "c"]
    assert [node.embedding for node in nodes] == [hash_vector("ab"), hash_vector("c")]


def test_cache_returns_the_old_ref_doc_id() -> None:
    """A text seen before under another id gets that document's nodes."""
    pipeline = IngestionPipeline(transformations=[splitter()])
    pipeline.run(documents=[Document(text=BERLIN, id_="first")])
    nodes = pipeline.run(documents=[Document(text=BERLIN, id_="second")])

    assert {node.ref_doc_id for node in nodes} == {"first"}


def test_cache_key_does_not_see_private_attributes() -> None:
    """A changed private attribute returns old vectors, so what changes vectors must be a public field."""
    cache = IngestionCache()
    models = [PrivateHashEmbedding(private_salt="old"), PrivateHashEmbedding(private_salt="new")]
    vectors = [
        IngestionPipeline(transformations=[model], cache=cache).run(nodes=[TextNode(text="x")])[0].embedding
        for model in models
    ]

    assert vectors == [hash_vector("oldx"), hash_vector("oldx")]


def test_cache_key_sees_public_fields() -> None:
    """A changed public field misses the cache: enough to keep two settings of one model apart."""
    cache = IngestionCache()
    vectors = [
        IngestionPipeline(transformations=[HashEmbedding(salt=salt)], cache=cache)
        .run(nodes=[TextNode(text="x")])[0]
        .embedding
        for salt in ("old", "new")
    ]

    assert vectors == [hash_vector("oldx"), hash_vector("newx")]


def test_what_stands_in_the_source_link_reaches_neither_cache_key_nor_any_reader() -> None:
    """No mode shows the link's metadata, so a stamp there is hidden from extractors and from the cache."""

    def stamped(text: str, stamp: str) -> TextNode:
        link = RelatedNodeInfo(node_id="d", metadata={"stamp": stamp})
        return TextNode(text=text, relationships={NodeRelationship.SOURCE: link})

    first = [stamped("ab", "doc 0:2"), stamped("c", "doc 2:3")]
    second = [stamped("a", "doc 0:1"), stamped("bc", "doc 1:3")]
    model = HashEmbedding()
    assert get_transformation_hash(first, model) == get_transformation_hash(second, model)
    for mode in MetadataMode:
        assert first[0].get_content(metadata_mode=mode) == "ab"


def test_embeddings_cache_mixes_up_queries_and_passages() -> None:
    """BaseEmbedding's cache is keyed by raw text alone, so a query gets a passage's vector: bypass it."""
    cached = HashEmbedding(embeddings_cache=SimpleKVStore())

    assert cached.get_text_embedding("lakes") == hash_vector("lakes")
    assert cached.get_query_embedding("lakes") == hash_vector("lakes")
    assert HashEmbedding().get_query_embedding("lakes") == hash_vector("query: lakes")


# --- ids and document stores --------------------------------------------------------------------------------


def test_random_ids_duplicate_the_points_of_a_second_run_without_docstore(document: Document) -> None:
    """Default ids are uuid4, so a fresh run stores every chunk again: our parser's ids are uuid5."""
    store = SimpleVectorStore()
    counts = []
    for _ in range(2):
        IngestionPipeline(transformations=[splitter(), HashEmbedding()], vector_store=store).run(
            documents=[document]
        )
        counts.append(len(store.data.embedding_dict))

    assert counts == [2, 4]


def test_an_id_func_is_enough_to_make_a_second_run_idempotent(document: Document) -> None:
    """Every splitter calls id_func(index, document), so deterministic ids make a second run an upsert."""
    store = SimpleVectorStore()
    parser = splitter(id_func=lambda i, doc: f"{doc.node_id}-{i}")
    for _ in range(2):
        IngestionPipeline(transformations=[parser, HashEmbedding()], vector_store=store).run(
            documents=[document]
        )

    assert sorted(store.data.embedding_dict) == ["berlin-0", "berlin-1"]


def test_a_docstore_keeps_a_second_run_from_storing_twice(document: Document) -> None:
    """With UPSERTS and one docstore an unchanged document is skipped: the other remedy that our docs give."""
    store, docstore = SimpleVectorStore(), SimpleDocumentStore()
    for _ in range(2):
        IngestionPipeline(
            transformations=[splitter(), HashEmbedding()],
            vector_store=store,
            docstore=docstore,
            docstore_strategy=DocstoreStrategy.UPSERTS,
        ).run(documents=[document])

    assert len(store.data.embedding_dict) == 2


def test_upserts_and_delete_forgets_one_of_two_equal_documents(other: Document) -> None:
    """Its table is keyed by hash, so of two equal documents only the last is deleted: warn in the docs."""
    store = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=[splitter(), HashEmbedding()],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        disable_cache=True,
    )
    pipeline.run(documents=[Document(text=BERLIN, id_="copy 1"), Document(text=BERLIN, id_="copy 2")])
    pipeline.run(documents=[other])

    assert set(store.data.text_id_to_ref_doc_id.values()) == {"copy 1", "lima"}


# --- pickling and worker processes --------------------------------------------------------------------------


def test_pickling_carries_private_attributes_and_then_discards_them() -> None:
    """Weights in a private attribute travel to each worker and are thrown away: drop them in __getstate__."""
    model = PrivateHashEmbedding(private_salt="weights " * 10_000)
    data = pickle.dumps(model)

    assert len(data) > 80_000
    assert pickle.loads(data)._private_salt == "initial"


def test_unpickling_runs_init_only_if_it_accepts_every_field() -> None:
    """__setstate__ calls __init__(**fields) and hides a TypeError, so ours must accept every field name."""
    model = PickyEmbedding(salt="s")
    model._starts = 7
    twin = pickle.loads(pickle.dumps(model))

    assert twin.salt == "s"
    assert twin._starts == 7  # carried over: __init__ would have set it to 1


def test_pickling_deletes_unpicklable_public_fields_from_the_live_object() -> None:
    """__getstate__ edits the object's own __dict__, so we keep locks and handles out of public fields."""
    model = LockedEmbedding(lock=threading.Lock())
    twin = pickle.loads(pickle.dumps(model))

    assert twin.lock is None
    with pytest.raises(AttributeError, match="lock"):
        _ = model.lock


def test_pickling_drops_a_lambda_id_func(document: Document) -> None:
    """A lambda id_func is lost in the worker and in the parent, so our ids do not come from a lambda."""
    parser = splitter(words=50, id_func=lambda i, doc: f"{doc.node_id}-{i}")
    ids_before = [node.node_id for node in parser([document])]
    twin = pickle.loads(pickle.dumps(parser))

    assert ids_before == ["berlin-0"]
    assert twin([document])[0].node_id != "berlin-0"
    with pytest.raises(AttributeError, match="id_func"):
        parser([document])


def test_pickling_drops_the_tokenizer_of_a_splitter(document: Document) -> None:
    """A splitter's tokenizer is lost in a worker, which then cuts other chunks: pickle it in our parser."""
    parser = SentenceSplitter(chunk_size=8, chunk_overlap=0, tokenizer=list)
    twin = pickle.loads(pickle.dumps(parser))

    assert max(len(chunk.get_content()) for chunk in parser([document])) <= 8
    assert twin([document])[0].get_content() == "Berlin is a city."


def offline_environment(folder: Path, **extra: str) -> dict[str, str]:
    """Give a child process an environment without tiktoken's table and without a network."""
    dropped = {"TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "NO_PROXY", "no_proxy"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return kept | proxies | {"TMPDIR": str(folder)} | extra


def run_python(script: Path, *arguments: str, env: dict[str, str], timeout_s: float) -> tuple[int, str]:
    """Run a script in a process group of its own and end the whole group if it takes too long."""
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{script.name} did not end within {timeout_s} s:\n{output}")
    return process.returncode, output


BUNDLED_TABLE = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"


@pytest.mark.parametrize("is_table_given", [False, True])
def test_default_tokenizer_unpickles_offline_only_with_tiktokens_cache_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_table_given: bool
) -> None:
    """Unpickling tiktoken downloads its table, and a worker dies of it offline: set the variable for it."""
    monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
    pickled = tmp_path / "tokenizer.pkl"
    pickled.write_bytes(pickle.dumps(get_tokenizer()))
    script = tmp_path / "unpickle.py"
    script.write_text(
        "import pathlib, pickle, sys\npickle.loads(pathlib.Path(sys.argv[1]).read_bytes())('text')\n"
    )

    extra = {"TIKTOKEN_CACHE_DIR": str(BUNDLED_TABLE)} if is_table_given else {}
    returncode, output = run_python(
        script, str(pickled), env=offline_environment(tmp_path, **extra), timeout_s=30
    )
    assert (returncode == 0) is is_table_given, output
    assert is_table_given or "openaipublic" in output


def test_splitter_works_in_offline_workers_with_tiktokens_cache_dir(tmp_path: Path) -> None:
    """num_workers=2 hangs offline without TIKTOKEN_CACHE_DIR and ends with it: set it before the pool."""
    script = tmp_path / "workers.py"
    script.write_text(
        textwrap.dedent(
            """
            if __name__ == "__main__":  # so only the worker that gets the task imports LlamaIndex
                from llama_index.core import Document
                from llama_index.core.ingestion import IngestionPipeline
                from llama_index.core.node_parser import SentenceSplitter

                pipeline = IngestionPipeline(transformations=[SentenceSplitter()])
                nodes = pipeline.run(documents=[Document(text="one")], num_workers=2)
                assert [node.text for node in nodes] == ["one"], nodes
            """
        )
    )
    env = offline_environment(tmp_path, TIKTOKEN_CACHE_DIR=str(BUNDLED_TABLE))
    returncode, output = run_python(script, env=env, timeout_s=60)

    assert returncode == 0, output
