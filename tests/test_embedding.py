"""ContextualEmbedding: all ways give the same bits, and what changes a vector changes the fingerprint."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import pydoc_data.topics
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.extractors import KeywordExtractor, QuestionsAnsweredExtractor, SummaryExtractor
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter, TokenTextSplitter
from llama_index.core.schema import BaseNode, QueryBundle, TextNode, TransformComponent
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from rag_embed import loading
from rag_embed.errors import AlignmentError, EmptyTextError, InputError, UnsupportedModelError
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, SpanNodeParser
from rag_embed.stamp import ChunkStamp
from tests import reference
from tests.checkpoints import tiny_bert

TOPICS = pydoc_data.topics.topics
TEXTS = {"lists": TOPICS["lists"], "assert": TOPICS["assert"], "lambda": TOPICS["lambda"]}

Snapshot = dict[str, tuple[list[float], dict[str, Any]]]


def read(*names: str, **edits: str) -> list[Document]:
    texts = {name: TEXTS[name] for name in names or TEXTS} | edits
    return [Document(text=text, id_=name, metadata={"title": f"On {name}"}) for name, text in texts.items()]


def splitter() -> SentenceSplitter:
    return SentenceSplitter(chunk_size=60, chunk_overlap=20)


def embedding_of(folder: Path, **options: Any) -> ContextualEmbedding:
    return ContextualEmbedding(**{"model": str(folder), "device": "cpu", "dtype": "float32", **options})


@pytest.fixture
def model(tiny_folder: Path) -> ContextualEmbedding:
    return embedding_of(tiny_folder)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("other") / "tiny_bert", seed=1)


def parse(*documents: Document) -> list[BaseNode]:
    return LateChunkingNodeParser(node_parser=splitter())(list(documents))


def snapshot(nodes: Sequence[BaseNode]) -> Snapshot:
    assert len({node.node_id for node in nodes}) == len(nodes)
    return {node.node_id: (node.embedding, node.metadata) for node in nodes}


def in_store(store: SimpleVectorStore) -> Snapshot:
    """What a store holds; without the keys that the store adds."""
    added = {"_node_type", "document_id", "doc_id", "ref_doc_id"}
    return {
        node_id: (
            store.data.embedding_dict[node_id],
            {key: value for key, value in metadata.items() if key not in added},
        )
        for node_id, metadata in store.data.metadata_dict.items()
    }


def expected(model: ContextualEmbedding, *documents: Document) -> Snapshot:
    return snapshot(model(parse(*(documents or read()))))


# --- the drop-in ways, bit for bit ----------------------------------------------------------------


def index_of(model: ContextualEmbedding, documents: list[Document], **options: Any) -> VectorStoreIndex:
    parser = LateChunkingNodeParser(node_parser=splitter(), embed_model=model)
    return VectorStoreIndex.from_documents(documents, transformations=[parser], embed_model=model, **options)


def pipeline_of(model: ContextualEmbedding, **options: Any) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[LateChunkingNodeParser(node_parser=splitter()), model], **options
    )


def by_index(model: ContextualEmbedding) -> Snapshot:
    return in_store(index_of(model, read()).vector_store)


def by_async_index(model: ContextualEmbedding) -> Snapshot:
    async def build() -> VectorStoreIndex:  # inside a loop, or LlamaIndex leaves one open
        return index_of(model, read(), use_async=True)

    return in_store(asyncio.run(build()).vector_store)


def by_small_batches(model: ContextualEmbedding) -> Snapshot:
    return in_store(index_of(model, read(), insert_batch_size=2).vector_store)


def by_insert(model: ContextualEmbedding) -> Snapshot:
    index = index_of(model, [])
    for document in read():
        index.insert(document)
    return in_store(index.vector_store)


def by_async_insert(model: ContextualEmbedding) -> Snapshot:
    index = index_of(model, [])

    async def insert() -> None:
        for document in read():
            await index.ainsert(document)

    asyncio.run(insert())
    return in_store(index.vector_store)


def by_refresh(model: ContextualEmbedding) -> Snapshot:
    index = index_of(model, read("lists", "assert", **{"assert": "Something else before."}))
    assert index.refresh_ref_docs(read()) == [False, True, True]
    return in_store(index.vector_store)


def by_update(model: ContextualEmbedding) -> Snapshot:
    index = index_of(model, read(**{"lists": "Something else before. " * 30}))
    index.update_ref_doc(read("lists")[0])
    return in_store(index.vector_store)


def by_pipeline(model: ContextualEmbedding) -> Snapshot:
    store = SimpleVectorStore()
    nodes = pipeline_of(model, vector_store=store).run(documents=read())
    assert in_store(store) == snapshot(nodes)
    return snapshot(nodes)


def by_cache_hit(model: ContextualEmbedding) -> Snapshot:
    pipeline = pipeline_of(model)
    pipeline.run(documents=read())
    before = model.encoder.token_count
    nodes = pipeline.run(documents=read())
    assert model.encoder.token_count == before
    return snapshot(nodes)


def by_async_pipeline(model: ContextualEmbedding) -> Snapshot:
    return snapshot(asyncio.run(pipeline_of(model).arun(documents=read())))


def by_both(model: ContextualEmbedding) -> Snapshot:
    parser = LateChunkingNodeParser(node_parser=splitter(), embed_model=model)
    return snapshot(IngestionPipeline(transformations=[parser, model]).run(documents=read()))


def by_await(model: ContextualEmbedding) -> Snapshot:
    return snapshot(asyncio.run(model.acall(parse(*read()))))


def by_mixed_order(model: ContextualEmbedding) -> Snapshot:
    """Nodes of several documents, shuffled among each other but not within one."""
    groups = [parse(document) for document in read()]
    nodes = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)]
    return snapshot(model(nodes))


def by_cache_hit_of_an_embedding_parser(model: ContextualEmbedding) -> Snapshot:
    parser = LateChunkingNodeParser(node_parser=splitter(), embed_model=model)
    pipeline = IngestionPipeline(transformations=[parser])
    pipeline.run(documents=read())
    before = model.encoder.token_count
    nodes = pipeline.run(documents=read())
    assert model.encoder.token_count == before
    return snapshot(nodes)


WAYS: list[Callable[[ContextualEmbedding], Snapshot]] = [
    by_index,
    by_async_index,
    by_small_batches,
    by_insert,
    by_async_insert,
    by_refresh,
    by_update,
    by_pipeline,
    by_cache_hit,
    by_cache_hit_of_an_embedding_parser,
    by_async_pipeline,
    by_both,
    by_await,
    by_mixed_order,
]


@pytest.mark.parametrize(
    ("way", "strategy"),
    [
        *((way, "blend") for way in WAYS),
        *((way, strategy) for way in (by_index, by_update, by_pipeline) for strategy in ("late", "isolated")),
    ],
)
def test_every_way_gives_the_same_bits(
    tiny_folder: Path, way: Callable[[ContextualEmbedding], Snapshot], strategy: str
) -> None:
    model = embedding_of(tiny_folder, strategy=strategy)
    assert way(model) == expected(model)


@pytest.mark.parametrize("way", [by_index, by_pipeline])
def test_the_embedded_encoder_gives_the_same_bits(way: Callable[[ContextualEmbedding], Snapshot]) -> None:
    model = ContextualEmbedding(device="cpu", dtype="float32")
    assert way(model) == expected(model)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_the_stock_qdrant_store_holds_the_same_bits_both_ways(model: ContextualEmbedding) -> None:
    held = []
    for name in ("index", "pipeline"):
        client = QdrantClient(location=":memory:")
        store = QdrantVectorStore("docs", client=client)
        if name == "index":
            index_of(model, read(), storage_context=StorageContext.from_defaults(vector_store=store))
        else:
            pipeline_of(model, vector_store=store).run(documents=read())
        points = client.scroll("docs", limit=1000, with_vectors=True)[0]
        held.append({str(point.id): (point.vector, point.payload["title"]) for point in points})
        stored = {node.node_id: node for node in store.get_nodes(node_ids=list(held[-1]))}
        assert {i: n.metadata for i, n in stored.items()} == {i: m for i, (_, m) in expected(model).items()}
        pipeline_of(model, vector_store=store).run(documents=read())
        assert client.count("docs").count == len(points), "a second run without docstore duplicated points"
        client.close()
    assert held[0] == held[1]
    wanted = expected(model)
    assert held[0].keys() == wanted.keys()
    for node_id, (vector, _) in held[0].items():
        np.testing.assert_allclose(vector, wanted[node_id][0], atol=1e-6)


def test_the_cache_of_an_embedding_parser_sees_what_changed_between_chunks(
    model: ContextualEmbedding,
) -> None:
    """And other borders in the same text: its key is the document's text and the parser's options."""
    parser = LateChunkingNodeParser(node_parser=SpanNodeParser(), embed_model=model)
    pipeline = IngestionPipeline(transformations=[parser])

    def run(gap: str, *spans: list[int]) -> list[BaseNode]:
        document = Document(text=f"The river{gap}it is long", id_="d", metadata={"spans": list(spans)})
        nodes = pipeline.run(documents=[document])
        assert snapshot(nodes) == snapshot(parser([document]))
        return nodes

    first = run(" Elbe: ", [0, 9], [16, 26])
    assert first[1].embedding != run(" Rhein ", [0, 9], [16, 26])[1].embedding
    assert [node.text for node in run(" Elbe: ", [0, 4], [4, 9])] == ["The ", "river"]


# --- what is embedded again, and what is refused --------------------------------------------------


def test_vectors_of_the_same_fingerprint_are_kept(tiny_folder: Path, model: ContextualEmbedding) -> None:
    nodes = model(parse(*read()))
    before = model.encoder.token_count
    wanted = snapshot([node.model_copy() for node in nodes])
    assert snapshot(model(nodes)) == wanted
    assert snapshot(embedding_of(tiny_folder)(nodes)) == wanted
    assert model.encoder.token_count == before
    stamps = [ChunkStamp.from_node(node) for node in nodes]
    assert {stamp.fingerprint for stamp in stamps} == {model.fingerprint()}


def test_another_fingerprint_embeds_again(tiny_folder: Path, model: ContextualEmbedding) -> None:
    nodes = model(parse(*read()))
    late = embedding_of(tiny_folder, strategy="late")
    before = model.encoder.token_count
    late(nodes)
    assert model.encoder.token_count > before
    assert snapshot(nodes) == expected(late)


def test_a_lost_vector_is_made_again_with_its_document_only(model: ContextualEmbedding) -> None:
    nodes = model(parse(*read()))
    wanted = snapshot([node.model_copy() for node in nodes])
    nodes[0].embedding = None
    before = model.encoder.token_count
    model(nodes)
    cost = model.encoder.token_count - before
    assert snapshot(nodes) == wanted
    before = model.encoder.token_count
    model(parse(*read("lists")))
    assert model.encoder.token_count - before == cost


def test_a_vector_of_unknown_origin_is_replaced(model: ContextualEmbedding) -> None:
    nodes = parse(*read())
    for node in nodes:
        node.embedding = [9.0] * 32
    assert snapshot(model(nodes)) == expected(model)


@pytest.mark.parametrize("strategy", ["late", "blend"])
def test_nodes_without_a_stamp_are_refused(tiny_folder: Path, strategy: str) -> None:
    nodes = [*parse(*read()), TextNode(text="stray", id_="stray")]
    with pytest.raises(
        AlignmentError,
        match=r"1 of \d+ nodes carry no stamp .*'stray' of document None; parse with LateChunking",
    ):
        embedding_of(tiny_folder, strategy=strategy)(nodes)
    assert all(node.embedding is None for node in nodes)


def test_nodes_without_a_stamp_are_embedded_alone_by_isolated(
    tiny_folder: Path, tiny_reference: tuple
) -> None:
    model = embedding_of(tiny_folder, strategy="isolated")
    nodes = [TextNode(text="Berlin has bridges.", metadata={"city": "berlin"}), TextNode(text="A river.")]
    model(nodes)
    for node, text in zip(nodes, ["city: berlin\n\nBerlin has bridges.", "A river."], strict=True):
        wanted = reference.isolated_vector(*tiny_reference, text, 64, 31)
        np.testing.assert_allclose(node.embedding, wanted, atol=1e-5)
        assert node.embedding == pytest.approx(model.get_text_embedding(text), abs=1e-6)
        assert ChunkStamp.from_node(node) is None


def test_isolated_takes_any_part_of_a_document(tiny_folder: Path) -> None:
    model = embedding_of(tiny_folder, strategy="isolated")
    nodes = parse(*read("lists"))
    assert len(nodes) > 2
    model(nodes[:1])
    model(nodes[1:])
    wanted = expected(model, *read("lists"))
    for node in nodes:
        np.testing.assert_allclose(node.embedding, wanted[node.node_id][0], atol=1e-6)


@pytest.mark.parametrize("strategy", ["late", "blend"])
@pytest.mark.parametrize(
    "part", [slice(0, -1), slice(1, None), slice(0, None, 2)], ids=["end", "start", "gaps"]
)
def test_a_part_of_a_document_is_refused_and_nothing_written(
    tiny_folder: Path, strategy: str, part: slice
) -> None:
    whole, cut = parse(*read("assert")), parse(*read("lists"))[part]
    metadata = [node.metadata for node in whole + cut]
    with pytest.raises(AlignmentError, match=r"do not add up .*Hand over all chunks of a document together"):
        embedding_of(tiny_folder, strategy=strategy)(whole + cut)
    assert all(node.embedding is None for node in whole + cut)
    assert [node.metadata for node in whole + cut] == metadata


class Edit(TransformComponent):
    """A transformation between parser and embedding that edits the text of one node."""

    old: str
    new: str

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        node = next(node for node in nodes if self.old in node.text)
        node.text = node.text.replace(self.old, self.new)
        return nodes


@pytest.mark.parametrize(
    "new", ["LIST", "a longer text", "", "l"], ids=["same length", "longer", "gone", "shorter"]
)
def test_text_edited_after_parsing_is_refused(model: ContextualEmbedding, new: str) -> None:
    pipeline = IngestionPipeline(
        transformations=[LateChunkingNodeParser(node_parser=splitter()), Edit(old="list", new=new), model]
    )
    with pytest.raises(AlignmentError, match="behind transformations that edit text"):
        pipeline.run(documents=read())


def test_text_cut_where_a_neighbour_still_has_it_is_refused(model: ContextualEmbedding) -> None:
    inner = TokenTextSplitter(chunk_size=40, chunk_overlap=10)
    nodes = LateChunkingNodeParser(node_parser=inner)(read("lists"))
    assert nodes[1].start_char_idx < nodes[0].end_char_idx, "the splitter made no overlap"
    nodes[0].text = nodes[0].text[: nodes[1].start_char_idx - nodes[0].start_char_idx]
    with pytest.raises(
        AlignmentError, match=r"0 of \d+ characters are missing, 1 texts are not where they were"
    ):
        model(nodes)
    assert all(node.embedding is None for node in nodes)


# --- the fingerprint ------------------------------------------------------------------------------

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "strategy late": ({}, {"strategy": "late"}),
    "strategy isolated": ({}, {"strategy": "isolated"}),
    "alpha": ({}, {"alpha": 0.5}),
    "head": ({}, {"head": "none"}),
    "window_tokens": ({}, {"window_tokens": 40}),
    "overlap_tokens": ({"window_tokens": 40}, {"window_tokens": 40, "overlap_tokens": 2}),
    "head_tokens": ({}, {"head_tokens": 2}),
    "query_prefix": ({}, {"query_prefix": "query: "}),
    "document_prefix": ({}, {"document_prefix": "passage: "}),
    "dtype": ({}, {"dtype": "bfloat16"}),
    "precision": (
        {"strategy": "isolated"},
        {"strategy": "isolated", "precision": "int8", "insist": ("precision",)},
    ),
}


def vectors_by(model: ContextualEmbedding) -> np.ndarray:
    nodes = model(parse(*read("lists")))
    return np.array([*(node.embedding for node in nodes), model.get_query_embedding("list display")])


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_vectors_changes_the_fingerprint(tiny_folder: Path, name: str) -> None:
    before, after = (embedding_of(tiny_folder, **options) for options in CHANGES[name])
    assert np.abs(vectors_by(before) - vectors_by(after)).max() > 1e-4
    assert before.fingerprint() != after.fingerprint()
    assert before.fingerprint() == embedding_of(tiny_folder, **CHANGES[name][0]).fingerprint()


def test_weights_change_the_fingerprint(tiny_folder: Path, other_folder: Path) -> None:
    before, after = embedding_of(tiny_folder), embedding_of(other_folder)
    assert np.abs(vectors_by(before) - vectors_by(after)).max() > 1e-2
    assert before.fingerprint() != after.fingerprint()
    assert before.fingerprint().startswith("tiny_bert@")


def test_a_prompt_of_the_checkpoint_changes_the_fingerprint(tiny_folder: Path, prompted_folder: Path) -> None:
    assert embedding_of(tiny_folder).fingerprint() != embedding_of(prompted_folder).fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"device": None},
        {"batch_tokens": 64},
        {"batch_tokens": 7},
        {"show_progress": True},
        {"insist": ("late", "prefix")},
        {"embed_batch_size": 1},
    ],
)
def test_what_changes_no_vector_leaves_the_fingerprint(tiny_folder: Path, options: dict) -> None:
    before, after = embedding_of(tiny_folder), embedding_of(tiny_folder, **options)
    np.testing.assert_allclose(vectors_by(before), vectors_by(after), atol=1e-6)
    assert before.fingerprint() == after.fingerprint()


def test_alpha_counts_in_a_blend_only(tiny_folder: Path) -> None:
    low, high = (embedding_of(tiny_folder, strategy="late", alpha=alpha) for alpha in (0.1, 0.9))
    assert low.fingerprint() == high.fingerprint()
    assert (vectors_by(low) == vectors_by(high)).all()


def test_an_automatic_dtype_travels_between_machines(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that a machine with an accelerator has made in bfloat16 is asked from a laptop in float32."""
    automatic, explicit = (embedding_of(tiny_folder, dtype=dtype) for dtype in ("auto", "float32"))
    assert automatic.encoder.dtype == torch.float32
    name = automatic.fingerprint()
    assert name == explicit.fingerprint()
    monkeypatch.setattr(loading, "pick_dtype", lambda device: torch.bfloat16)
    elsewhere = embedding_of(tiny_folder, dtype="auto")
    assert elsewhere.encoder.dtype == torch.bfloat16
    assert elsewhere.fingerprint() == name


@pytest.mark.parametrize("field", sorted(ContextualEmbedding.model_fields))
def test_every_field_is_accounted_for(field: str) -> None:
    """A new field has to be put into one of the tests above."""
    changing = {key.split()[0] for key in CHANGES} | {"model", "revision", "adapter"}
    # Token vectors stand beside the chunk vector and change nothing of it.
    neutral = {"device", "batch_tokens", "show_progress", "embed_batch_size", "insist", "token_neighbours"}
    inherited = {"model_name", "callback_manager", "num_workers", "embeddings_cache", "rate_limiter"}
    elsewhere = {"dim"}  # tests/test_native.py: vectors of two sizes have no difference
    # tests/test_served.py: the engine is in the fingerprint, where its server stands is not
    served = {"engine", "server", "context_server", "api_key", "requests_in_flight", "timeout_s"}
    kept = {"window_cache"}  # tests/test_window_cache.py: the bits of a full run
    assert field in changing | elsewhere | neutral | inherited | served | kept


# --- queries --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompted_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompted") / "tiny_bert"
    shutil.copytree(tiny_folder, folder)
    prompts = {"prompts": {"query": "ask: ", "document": "page: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    return folder


def test_prompts_of_the_checkpoint(prompted_folder: Path, tiny_folder: Path, tiny_reference: tuple) -> None:
    model = embedding_of(prompted_folder)

    def alone(text: str) -> Any:
        return pytest.approx(reference.isolated_vector(*tiny_reference, text, 64, 31), abs=1e-5)

    assert model.get_query_embedding("the river") == alone("ask: the river")
    assert model.get_text_embedding("the river") == alone("page: the river")
    assert model.get_text_embedding_batch(["the river", "a"])[0] == alone("page: the river")
    assert embedding_of(prompted_folder, query_prefix="").get_query_embedding("the river") == alone(
        "the river"
    )
    given = embedding_of(tiny_folder, query_prefix="ask: ", document_prefix="page: ")
    assert (vectors_by(given) == vectors_by(model)).all()
    assert given.fingerprint() == model.fingerprint()


def test_the_index_asks_with_the_query_prompt(prompted_folder: Path) -> None:
    model = embedding_of(prompted_folder)
    index = index_of(model, read())
    bundle = QueryBundle("list display")
    index.as_retriever(similarity_top_k=2).retrieve(bundle)
    assert bundle.embedding == model.get_query_embedding("list display")


@pytest.mark.parametrize("query", ["", "  \n"])
async def test_an_empty_query_is_refused(model: ContextualEmbedding, query: str) -> None:
    with pytest.raises(EmptyTextError, match="expected a question"):
        model.get_query_embedding(query)
    with pytest.raises(EmptyTextError, match="expected a question"):
        await model.aget_query_embedding(query)


async def test_async_equals_sync(model: ContextualEmbedding) -> None:
    texts = ["one text", "another, longer text", ""]
    assert await model.aget_query_embedding("a query") == model.get_query_embedding("a query")
    assert await model.aget_text_embedding(texts[0]) == model.get_text_embedding(texts[0])
    assert await model.aget_text_embedding_batch(texts) == model.get_text_embedding_batch(texts)
    many = await asyncio.gather(*(model.aget_query_embedding(f"query {i}") for i in range(8)))
    assert many == [model.get_query_embedding(f"query {i}") for i in range(8)]


# --- copies ---------------------------------------------------------------------------------------


def check_twin(twin: ContextualEmbedding, model: ContextualEmbedding) -> None:
    assert type(twin) is ContextualEmbedding
    assert twin.to_dict() == model.to_dict()
    assert twin.fingerprint() == model.fingerprint()
    assert twin.get_query_embedding("a river") == model.get_query_embedding("a river")
    assert twin.encoder is model.encoder


@pytest.mark.parametrize(
    "clone",
    [
        lambda model: pickle.loads(pickle.dumps(model)),
        copy.deepcopy,
        copy.copy,
        lambda model: ContextualEmbedding.from_dict(model.to_dict()),
        lambda model: ContextualEmbedding.from_json(model.to_json()),
    ],
    ids=["pickle", "deepcopy", "copy", "dict", "json"],
)
def test_copies_do_the_same(tiny_folder: Path, clone: Callable) -> None:
    model = embedding_of(tiny_folder, strategy="late", alpha=0.7, window_tokens=48, query_prefix="q: ")
    model.callback_manager = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    fields = dict(model.__dict__)
    check_twin(clone(model), model)
    assert model.__dict__ == fields, "copying damaged the original"


def test_weights_are_not_in_the_pickle() -> None:
    model = ContextualEmbedding(device="cpu", dtype="float32")
    model.get_query_embedding("load the weights")
    assert len(pickle.dumps(model)) < 20_000
    check_twin(pickle.loads(pickle.dumps(model)), model)


def test_an_embeddings_cache_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="keys vectors by text alone"):
        embedding_of(tiny_folder, embeddings_cache=SimpleKVStore())
    with pytest.raises(InputError, match="windows of 3000 tokens"):
        embedding_of(tiny_folder, window_tokens=3000)(parse(*read()))


# --- what is said once ----------------------------------------------------------------------------


def test_a_blend_mixes_headed_windows_with_bare_chunks(tiny_folder: Path) -> None:
    """Shared metadata stands before the windows; before a chunk stands only what is its own."""

    def vectors(keys: set[str], **options: Any) -> np.ndarray:
        nodes = parse(*read("lists"))
        for number, node in enumerate(nodes):
            node.metadata = {**node.metadata, "page": str(number)}
            node.excluded_embed_metadata_keys += [k for k in ("title", "page") if k not in keys]
        embedding_of(tiny_folder, **options)(nodes)
        return np.array([node.embedding for node in nodes])

    both = {"title", "page"}

    def mix(late: np.ndarray, isolated: np.ndarray) -> list[reference.Vector]:
        spans = [(node.start_char_idx, node.end_char_idx) for node in parse(*read("lists"))]
        return reference.blend(late.tolist(), isolated.tolist(), 0.3, spans)

    mixed = mix(vectors(both, strategy="late"), vectors({"page"}, strategy="isolated"))
    np.testing.assert_allclose(vectors(both, strategy="blend", alpha=0.3), mixed, atol=1e-6)

    unheaded = mix(vectors(set(), strategy="late"), vectors(both, strategy="isolated"))
    np.testing.assert_allclose(vectors(both, alpha=0.3, head="none"), unheaded, atol=1e-6)


# --- what others are told -------------------------------------------------------------------------


class Listener(BaseEventHandler):
    """A real handler that keeps the events it is told of."""

    events: list[Any] = []  # noqa: RUF012  # pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


@pytest.fixture
def listener() -> Iterator[Listener]:
    root, listener = get_dispatcher(), Listener()
    root.add_event_handler(listener)
    yield listener
    root.event_handlers.remove(listener)


def test_embedding_events(model: ContextualEmbedding, listener: Listener) -> None:
    nodes = model(parse(*read()))
    starts = [event for event in listener.events if isinstance(event, EmbeddingStartEvent)]
    ends = [event for event in listener.events if isinstance(event, EmbeddingEndEvent)]
    assert len(starts) == len(ends) == len(TEXTS)
    assert starts[0].model_dict["class_name"] == "ContextualEmbedding"
    assert [vector for end in ends for vector in end.embeddings] == [node.embedding for node in nodes]
    assert [len(end.chunks) for end in ends] == [len(end.embeddings) for end in ends]
    assert [chunk for end in ends for chunk in end.chunks] == [node.text for node in nodes]
    listener.events.clear()
    model(nodes)
    assert not [event for event in listener.events if isinstance(event, EmbeddingStartEvent)]


def test_callback_manager_events(tiny_folder: Path) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    model = embedding_of(tiny_folder, callback_manager=CallbackManager([debug]))
    nodes = model(parse(*read("lists")))
    ((start, end),) = debug.get_event_pairs(CBEventType.EMBEDDING)
    assert EventPayload.SERIALIZED in start.payload
    assert end.payload[EventPayload.EMBEDDINGS] == [node.embedding for node in nodes]


def test_spans(model: ContextualEmbedding) -> None:
    root, handler = get_dispatcher(), SimpleSpanHandler()
    root.add_span_handler(handler)
    try:
        index_of(model, read("lists")).as_retriever().retrieve("list")
    finally:
        root.span_handlers.remove(handler)
    names = {span.id_.split("-")[0] for span in handler.completed_spans}
    assert "LateChunkingNodeParser._parse_nodes" in names
    assert any(name.startswith("ContextualEmbedding.") for name in names)
    assert not handler.dropped_spans


@pytest.mark.parametrize("is_shown", [True, False])
def test_progress_bar(tiny_folder: Path, capsys: pytest.CaptureFixture[str], is_shown: bool) -> None:
    embedding_of(tiny_folder, show_progress=is_shown)(parse(*read()))
    assert ("Embedding documents: 100%" in capsys.readouterr().err) is is_shown
    embedding_of(tiny_folder)(parse(*read()), show_progress=is_shown)
    assert ("Embedding documents: 100%" in capsys.readouterr().err) is is_shown


# --- what language models are shown ---------------------------------------------------------------


class Recorder(MockLLM):
    """LlamaIndex's stand-in for an LLM, which keeps what it is told."""

    told: list[str] = []  # noqa: RUF012  # pydantic copies it

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self.told.append(prompt)
        return await super().acomplete(prompt, formatted, **kwargs)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self.told.append(prompt)
        return super().complete(prompt, formatted, **kwargs)


@pytest.mark.parametrize("extractor", [KeywordExtractor, SummaryExtractor, QuestionsAnsweredExtractor])
@pytest.mark.parametrize("place", ["before", "after"])
def test_extractors_tell_their_llm_nothing_of_ours(
    model: ContextualEmbedding, extractor: Callable[..., TransformComponent], place: str
) -> None:
    """They read all metadata; what stands beside a chunk for us is not among them."""
    ours, plain = Recorder(), Recorder()
    chunker = splitter()
    steps: list[TransformComponent] = [LateChunkingNodeParser(node_parser=chunker), model]
    steps.insert(1 if place == "before" else 2, extractor(llm=ours, num_workers=1))
    nodes = IngestionPipeline(transformations=steps).run(documents=read("assert"))
    IngestionPipeline(transformations=[chunker, extractor(llm=plain, num_workers=1)]).run(
        documents=read("assert")
    )
    assert sorted(ours.told) == sorted(plain.told)
    assert len(ours.told) > 1
    assert all(node.embedding for node in nodes)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_the_stock_store_brings_the_stamps_back(model: ContextualEmbedding) -> None:
    client = QdrantClient(location=":memory:")
    store = QdrantVectorStore("docs", client=client)
    nodes = pipeline_of(model, vector_store=store).run(documents=read())
    back = store.get_nodes(node_ids=[node.node_id for node in nodes])
    wanted = {node.node_id: ChunkStamp.from_node(node) for node in nodes}
    assert {node.node_id: ChunkStamp.from_node(node) for node in back} == wanted
    assert all(stamp.fingerprint == model.fingerprint() for stamp in wanted.values())
    client.close()


# --- arguments that other components have ---------------------------------------------------------


def test_names_of_huggingface_embedding_mean_the_same(tiny_folder: Path) -> None:
    own = embedding_of(tiny_folder, query_prefix="ask: ", document_prefix="page: ")
    theirs = ContextualEmbedding(
        model_name=str(tiny_folder),
        query_instruction="ask: ",
        text_instruction="page: ",
        normalize=True,
        backend="torch",
        trust_remote_code=False,
        cache_folder=None,
        max_length=None,
        show_progress_bar=False,
        embed_batch_size=4,
        device="cpu",
        dtype="float32",
    )
    assert theirs.fingerprint() == own.fingerprint()
    assert theirs.get_query_embedding("river") == own.get_query_embedding("river")
    assert theirs.embed_batch_size == 4


def test_another_model_name_is_never_answered_by_the_embedded_model() -> None:
    with pytest.raises(UnsupportedModelError, match=r"BAAI/bge-small-en"):
        ContextualEmbedding(model_name="BAAI/bge-small-en").fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 128}, r"max_length=128; no text is cut here: window_tokens="),
        ({"normalize": False}, r"normalize=False; every vector has length 1"),
        ({"cache_folder": "x"}, r"HF_HUB_CACHE"),
        ({"backend": "onnx"}, r"backend='onnx'; torch is the only one"),
        ({"trust_remote_code": True}, r"no remote code is run"),
        ({"startegy": "late"}, r"knows no argument 'startegy'; did you mean 'strategy'\?"),
        ({"qqqq": 1}, r"knows no argument 'qqqq'; it takes .*strategy"),
        ({"model": "a", "model_name": "b"}, r"model='a' and model_name='b', two names of one thing"),
        ({"query_prefix": "a", "query_instruction": "b"}, r"expected query_prefix= alone"),
    ],
)
def test_arguments_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextualEmbedding(**options)


def test_a_model_looks_at_its_checkpoint_once_and_copies_have_options_of_their_own(tiny_folder: Path) -> None:
    model = embedding_of(tiny_folder, strategy="late")
    before = model.get_query_embedding("who?")
    assert model.recipe is model.recipe
    assert model.embedder is model.embedder
    isolated = model.model_copy(update={"strategy": "isolated"})
    assert isolated.fingerprint() != model.fingerprint()
    assert isolated.recipe.strategy == "isolated"
    assert model.recipe.strategy == "late"
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        assert copied.get_query_embedding("who?") == before
        assert copied.embedder.encoder is model.embedder.encoder
    model.query_prefix = "query: "
    assert model.get_query_embedding("who?") != before
