"""What is asked for happens, or is refused; no answer is wrong in silence."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_index.core import Document, MockEmbedding, Settings, StorageContext, VectorStoreIndex
from llama_index.core.extractors import KeywordExtractor, QuestionsAnsweredExtractor, SummaryExtractor
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from qdrant_client import models as m

from rag_embed import (
    ContextualEmbedding,
    LateChunkingNodeParser,
    ListwiseRerank,
    QdrantChunkStore,
    RagEmbedError,
)
from rag_embed.llamaindex.corpus import Corpus
from tests.probes.asking import as_json, edit_json, node, texts, write
from tests.probes.conftest import Run
from tests.qdrant_standin import serve

TEXT = "The river is old. It runs to the city. Its people built a bridge. They live by it. " * 4
REFUSED = (RagEmbedError, ValueError, TypeError)


# --- arguments


@pytest.fixture(params=["memory", "folder", "server"])
def tenants(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantChunkStore]:
    """Chunks of two tenants on each engine."""
    with serve() as server:
        places: dict[str, dict[str, Any]] = {
            "memory": {"location": ":memory:"},
            "folder": {"path": tmp_path / "tenants"},
            "server": {"url": server.url},
        }
        with QdrantChunkStore("docs", **places[request.param]) as store:
            store.add(
                [node(f"{tenant}-{i}", tenant=tenant, size=i) for tenant in ("ann", "bob") for i in range(3)]
            )
            yield store


ANN = m.FieldCondition(key="tenant", match=m.MatchValue(value="ann"))
LARGE = m.FieldCondition(key="size", range=m.Range(gte=1))
WHO: dict[str, tuple[m.Filter, set[str]]] = {
    "must": (m.Filter(must=[ANN]), {"ann-0", "ann-1", "ann-2"}),
    "min_should": (
        m.Filter(min_should=m.MinShould(conditions=[ANN, LARGE], min_count=2)),
        {"ann-1", "ann-2"},
    ),
}


@pytest.mark.parametrize("kind", WHO)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_filters_given_as_qdrant_filters_keep_other_tenants_out(
    tenants: QdrantChunkStore, kind: str, how: str
) -> None:
    """They were ignored: the chunks of all tenants came back."""
    condition, expected = WHO[kind]
    index = VectorStoreIndex.from_vector_store(tenants, embed_model=MockEmbedding(embed_dim=4))
    retriever = index.as_retriever(similarity_top_k=10, vector_store_kwargs={"qdrant_filters": condition})

    async def aask() -> Any:
        found = await retriever.aretrieve("who?")
        await tenants.aclose()
        return found

    found = retriever.retrieve("who?") if how == "sync" else asyncio.run(aask())
    assert {hit.node.node_id for hit in found} == expected


@pytest.mark.parametrize("name", ["shard_identifier", "qdrant_filter", "search_param", "filter"])
def test_a_query_option_that_has_no_effect_is_refused(name: str) -> None:
    """Whatever was misspelled or not known was dropped."""
    with QdrantChunkStore("docs", location=":memory:") as store:
        store.add([node("a")])
        query = VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0, 0.0], similarity_top_k=1)
        with pytest.raises(REFUSED, match=name):
            store.query(query, **{name: "x"})
        with pytest.raises(REFUSED, match=name):
            asyncio.run(store.aquery(query, **{name: "x"}))


def test_search_params_reach_the_server() -> None:
    """They were dropped, so `exact=True` searched approximately."""
    with serve() as server, QdrantChunkStore("docs", url=server.url) as store:
        store.add([node("a")])
        query = VectorStoreQuery(query_embedding=[1.0, 0.0, 0.0, 0.0], similarity_top_k=1)
        store.query(query, search_params=m.SearchParams(exact=True, hnsw_ef=77))
        assert server.queries[-1].params is not None
        assert (server.queries[-1].params.exact, server.queries[-1].params.hnsw_ef) == (True, 77)


def test_the_name_of_another_model_never_gives_vectors_of_the_embedded_one(tmp_path: Path) -> None:
    """`model_name=`, as HuggingFaceEmbedding has it, was ignored and MiniLM ran under its own fingerprint."""
    default = ContextualEmbedding().fingerprint()
    for name in ("model_name", "model_id", "model_path"):
        with pytest.raises(REFUSED):
            other = ContextualEmbedding(**{name: str(tmp_path / "no-such-model")})
            assert other.fingerprint() == default, "refused in time"
            raise AssertionError(f"{name}= was ignored")


def test_the_words_of_other_embedding_classes_do_what_they_say(tiny_folder: Path) -> None:
    """Instructions and the progress bar were ignored."""
    own = ContextualEmbedding(model=str(tiny_folder), query_prefix="ask: ", document_prefix="page: ")
    theirs = ContextualEmbedding(
        model_name=str(tiny_folder),
        query_instruction="ask: ",
        text_instruction="page: ",
        show_progress_bar=True,
    )
    assert theirs.fingerprint() == own.fingerprint()
    assert theirs.get_query_embedding("river") == own.get_query_embedding("river")
    assert theirs.show_progress


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 64},
        {"normalize": False},
        {"cache_folder": "somewhere"},
        {"backend": "onnx"},
        {"trust_remote_code": True},
        {"pooling": "cls"},
        {"dimensions": 16},
        {"stratgy": "late"},
        {"dtpye": "float16"},
        {"model_kwargs": {"torch_dtype": "float16"}},
    ],
    ids=str,
)
def test_an_argument_of_the_embedding_that_has_no_effect_is_refused(tiny_folder: Path, options: Any) -> None:
    """Each was accepted, and the vectors were the same as without it."""
    with pytest.raises(ValueError, match=next(iter(options))):
        ContextualEmbedding(model=str(tiny_folder), **options)


@pytest.mark.parametrize(
    "options",
    [{"model": "x"}, {"llm": MockLLM()}, {"top_k": 3}, {"choice_batch_size": 5}],
    ids=lambda o: next(iter(o)),
)
def test_an_argument_of_the_reranker_that_has_no_effect_is_refused(
    model: ContextualEmbedding, options: dict[str, Any]
) -> None:
    """An LLM, a model and `top_k=` were accepted, and neither was used."""
    with pytest.raises(ValueError, match=next(iter(options))):
        ListwiseRerank(embed_model=model, **options)


def test_chunk_size_given_to_the_parser_cuts_chunks_of_that_size() -> None:
    """It was ignored: chunks had the inner splitter's 1,024 tokens."""
    chunks = LateChunkingNodeParser(chunk_size=20, chunk_overlap=0)([Document(text=TEXT, id_="d")])
    expected = SentenceSplitter(chunk_size=20, chunk_overlap=0)([Document(text=TEXT, id_="d")])
    assert [chunk.get_content() for chunk in chunks] == [chunk.get_content() for chunk in expected]
    assert len(chunks) > 5


def test_metadata_and_neighbours_that_a_parser_shall_leave_out_are_left_out() -> None:
    """`include_metadata=False` and `include_prev_next_rel=False` changed nothing."""
    document = Document(text=TEXT, id_="d", metadata={"secret": "diary"})
    chunks = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=20, chunk_overlap=0),
        include_metadata=False,
        include_prev_next_rel=False,
    )([document])
    assert len(chunks) > 5
    assert not any("secret" in chunk.metadata or "diary" in chunk.get_content("all") for chunk in chunks)
    assert all(chunk.prev_node is None and chunk.next_node is None for chunk in chunks)


@pytest.mark.parametrize("name", ["chunk_sise", "tokenizr", "embedding_model", "embed_modle"])
def test_an_argument_of_the_parser_that_has_no_effect_is_refused(name: str) -> None:
    """Typing errors were accepted."""
    with pytest.raises(ValueError, match=name):
        LateChunkingNodeParser(**{name: 3})


# --- a forgotten embed_model


def vectors(store: QdrantChunkStore) -> dict[str, list[float]]:
    return {found.get_content(): found.embedding or [] for found in store.get_nodes()}


def index_as(way: str, model: ContextualEmbedding, storage: StorageContext) -> None:
    documents, splitter = [Document(text=TEXT, id_="d")], SentenceSplitter(chunk_size=24, chunk_overlap=0)
    parser = LateChunkingNodeParser(node_parser=splitter)
    if way == "from_documents":
        VectorStoreIndex.from_documents(
            documents, transformations=[parser], embed_model=model, storage_context=storage
        )
    elif way == "Settings.node_parser":
        Settings.node_parser, Settings._transformations = parser, None
        VectorStoreIndex.from_documents(documents, embed_model=model, storage_context=storage)
    elif way == "nodes":
        VectorStoreIndex(parser(documents), embed_model=model, storage_context=storage)
    elif way == "insert_nodes":
        index = VectorStoreIndex([], embed_model=model, storage_context=storage)
        index.insert_nodes(parser(documents))
    elif way == "after a splitter":
        IngestionPipeline(
            transformations=[splitter, LateChunkingNodeParser(node_parser=splitter), model],
            vector_store=storage.vector_store,
        ).run(documents=documents)


@pytest.mark.parametrize(
    "way", ["from_documents", "Settings.node_parser", "nodes", "insert_nodes", "after a splitter"]
)
def test_a_model_forgotten_at_the_parser_gives_no_vectors_without_context(
    model: ContextualEmbedding, way: str
) -> None:
    """LlamaIndex then embeds chunk by chunk; the store took these vectors for ones made in context."""
    splitter = SentenceSplitter(chunk_size=24, chunk_overlap=0)
    chunks = LateChunkingNodeParser(node_parser=splitter, embed_model=model)([Document(text=TEXT, id_="d")])
    expected = {chunk.get_content(): chunk.embedding or [] for chunk in chunks}
    before = Settings._node_parser, Settings._transformations
    with QdrantChunkStore("docs", location=":memory:") as store:
        try:
            index_as(way, model, StorageContext.from_defaults(vector_store=store))
        except REFUSED as error:
            assert "LateChunkingNodeParser" in str(error)
            assert store.count() == 0
            return
        finally:
            Settings._node_parser, Settings._transformations = before
        found = vectors(store)
    assert found.keys() == expected.keys()
    for text, vector in found.items():
        np.testing.assert_allclose(vector, expected[text], atol=1e-5)


def test_pages_of_one_file_have_one_vector_each_however_they_are_handed_in(
    model: ContextualEmbedding,
) -> None:
    """`context_key=` joined the pages of one call; page by page other vectors had the same fingerprint."""
    try:
        parser = LateChunkingNodeParser(context_key="file_path", embed_model=model)
    except ValueError:
        return  # refused: pages are joined beforehand
    sentences = TEXT.split(". ")
    pages = [Document(text=sentences[i], id_=f"{i}", metadata={"file_path": "a.pdf"}) for i in range(3)]
    together = {chunk.node_id: chunk.embedding for chunk in parser(pages)}
    apart = {chunk.node_id: chunk.embedding for page in pages for chunk in parser([page])}
    assert together == apart


# --- fingerprints


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"num_hidden_layers": 1}),
        ("config.json", {"hidden_act": "relu"}),
        ("config.json", {"layer_norm_eps": 0.5}),
        ("config.json", {"num_attention_heads": 2}),
    ],
    ids=str,
)
def test_a_setting_of_the_checkpoint_that_changes_vectors_changes_the_fingerprint(
    tiny_folder: Path, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    """Other layers, activation, epsilon or heads gave other vectors under one fingerprint."""
    folder = shutil.copytree(tiny_folder, tmp_path / tiny_folder.name)  # the name is in the fingerprint
    edit_json(folder / file, changes)
    other = ContextualEmbedding(model=str(folder), device="cpu", dtype="float32")
    try:
        other.get_query_embedding("river")
    except REFUSED:
        return
    assert other.fingerprint() != ContextualEmbedding(model=str(tiny_folder), dtype="float32").fingerprint()


def test_the_scale_of_an_adapter_changes_the_fingerprint(tiny_folder: Path, tmp_path: Path) -> None:
    """Another lora_alpha gave other vectors under one fingerprint."""
    adapter = write_adapter(tmp_path / "adapter", tiny_folder)
    louder = shutil.copytree(adapter, tmp_path / "louder" / "adapter")
    edit_json(louder / "adapter_config.json", {"lora_alpha": 8})
    first, second = (
        ContextualEmbedding(model=str(tiny_folder), strategy="late", adapter=str(folder)).fingerprint()
        for folder in (adapter, louder)
    )
    assert first != second


def write_adapter(
    folder: Path,
    checkpoint: Path,
    *,
    rank: int = 2,
    low: int = 32,
    high: int = 32,
    size: float = 0.1,
    **config: Any,
) -> Path:
    """An adapter of one layer of the tiny model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    layer = "base_model.model.encoder.layer.0.attention.self.query"
    tensors = {
        f"{layer}.lora_A.weight": torch.full((rank, low), size),
        f"{layer}.lora_B.weight": torch.full((high, rank), size),
    }
    save_file(tensors if size else {}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["query"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    sha256 = ContextualEmbedding(model=str(checkpoint)).profile.weights_sha256
    card = {"base": {"name": "tiny", "sha256": sha256}, "window_tokens": 40}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    "fault",
    [
        {"high": 1},
        {"low": 1},
        {"size": 1e15},
        {"size": 0},
        {"r": -2, "lora_alpha": -2},
        {"r": -2},
        {"size": float("nan")},
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_refused(
    tiny_folder: Path, tmp_path: Path, fault: dict[str, Any]
) -> None:
    """Shapes that merely broadcast, negative ranks, huge weights and no weights were merged."""
    adapter = write_adapter(tmp_path / "adapter", tiny_folder, **fault)
    with pytest.raises(REFUSED):
        _ = ContextualEmbedding(
            model=str(tiny_folder), strategy="late", dtype="float32", adapter=str(adapter)
        ).context_encoder


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_vector_depends_on_no_other_text_of_the_pass_whatever_attention_a_checkpoint_names(
    tiny_folder: Path, tmp_path: Path, attention: str
) -> None:
    """`_attn_implementation` in config.json went before ours, and packed windows saw each other."""
    folder = shutil.copytree(tiny_folder, tmp_path / "named")
    edit_json(folder / "config.json", {"_attn_implementation": attention})
    texts_ = [f"{TEXT[: 20 * length]}" for length in range(1, 9)]
    alone, together = (
        ContextualEmbedding(
            model=str(folder), device="cpu", dtype="float32", batch_tokens=size, embed_batch_size=8
        )
        for size in (64, 1024)
    )
    expected = [alone.get_text_embedding(text) for text in texts_]
    np.testing.assert_allclose(together.get_text_embedding_batch(texts_), expected, atol=1e-5)


def test_the_default_precision_is_the_same_on_every_processor(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a CPU has instructions for bfloat16, "auto" took it, and vectors differed by up to 3e-3."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    folder = shutil.copytree(tiny_folder, tmp_path / "uncached")
    assert ContextualEmbedding(model=str(folder), device="cpu").encoder.dtype == torch.float32


# --- what language models are shown


class Recorder(MockLLM):
    """Keeps what it is told."""

    told: list[str] = []  # noqa: RUF012  # pydantic copies it

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self.told.append(prompt)
        return await super().acomplete(prompt, formatted, **kwargs)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self.told.append(prompt)
        return super().complete(prompt, formatted, **kwargs)


@pytest.mark.parametrize("extractor", [KeywordExtractor, SummaryExtractor, QuestionsAnsweredExtractor])
def test_an_extractors_llm_is_told_my_text_and_nothing_of_the_library(
    model: ContextualEmbedding, extractor: Callable[..., Any]
) -> None:
    """Extractors show all metadata to the LLM, and the stamp of each chunk was among them."""
    splitter, ours, plain = SentenceSplitter(chunk_size=60, chunk_overlap=0), Recorder(), Recorder()
    for llm, parser in (
        (ours, LateChunkingNodeParser(node_parser=splitter, embed_model=model)),
        (plain, splitter),
    ):
        IngestionPipeline(transformations=[parser, extractor(llm=llm, num_workers=1)]).run(
            documents=[Document(text=TEXT, id_="d", metadata={"title": "Rivers"})]
        )
    assert len(ours.told) > 1
    assert sorted(ours.told) == sorted(plain.told)


# --- files


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Frau Müller wohnt in der Straße.", "latin-1"),
        ("Les élèves étaient là, près de la forêt.", "cp1252"),
        ("東京都は日本の首都です。京都は古い町です。", "shift_jis"),
        ("Frau Müller wohnt in der Straße.", "utf-16"),
        ("Frau Müller wohnt in der Straße.", "utf-16-le"),
    ],
)
def test_no_letter_of_a_file_that_is_not_utf8_is_lost(
    run: Run, tmp_path: Path, text: str, encoding: str
) -> None:
    """Umlauts vanished, Japanese became noise, UTF-16 was called binary."""
    result = run("index", write(tmp_path / "docs", {"a.txt": text.encode(encoding)}))
    assert result.exit_code == 0, result.stderr
    assert texts(tmp_path / "store") == {"docs/a.txt": text}
    if not encoding.startswith("utf-16") or encoding == "utf-16-le":
        assert "docs/a.txt" in result.stderr or encoding == "utf-16-le"


PDF = b"%PDF-1.3\n1 0 obj << /Filter [ /ASCII85Decode /FlateDecode ] >> stream\nGap4A ~>\nendstream\n%%EOF\n"


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        ("a.pdf", PDF, "ASCII85Decode"),
        ("no-suffix", PDF, "ASCII85Decode"),
        ("a.rtf", rb"{\rtf1\ansi The \b lake\b0  is deep.\par}", "rtf1"),
        ("a.ps", b"%!PS-Adobe-3.0\n/Helvetica findfont 12 scalefont setfont (x) show\n", "findfont"),
        ("a.html", b"<html><script>var x = 1;</script><p>Bread</p></html>", "<script>"),
        ("a.ipynb", b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": "print(1)"}]}', "cell_type"),
    ],
)
def test_the_source_code_of_a_document_is_not_taken_for_its_text(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, source: str
) -> None:
    """Without a reader `%PDF-1.3 ... ASCII85Decode` was indexed, over the good text of earlier runs."""
    docs = write(tmp_path / "docs", {"other.txt": "Salt.", name: content})
    run("index", docs)
    good = texts(tmp_path / "store")
    for package in ("pypdf", "bs4", "striprtf", "striprtf.striprtf"):
        monkeypatch.setitem(sys.modules, package, None)
    write(docs, {name: content.replace(b"lake", b"sea").replace(b"Bread", b"Salt")})
    result = run("index", docs)
    assert f"docs/{name}" in result.stderr or name in ("a.ipynb",)
    assert not any(source in text for text in texts(tmp_path / "store").values())
    assert texts(tmp_path / "store").get(f"docs/{name}") == good.get(f"docs/{name}")


# --- values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [1.0, float("nan")]], ids=str)
def test_a_number_in_metadata_does_not_become_nothing(tenants: QdrantChunkStore, value: Any) -> None:
    """NaN and infinity were stored as null."""
    with pytest.raises(REFUSED, match="score"):
        tenants.add([node("a", score=value)])
    with pytest.raises(REFUSED, match="score"):
        tenants.replace_document("doc", [node("a", score=value)])


@pytest.mark.parametrize(
    "value",
    [(1, 2), {"b", "a"}, frozenset({"x"}), float("nan")],
    ids=["tuple", "set", "frozenset", "nan"],  # the text of a set differs between the workers of one run
)
def test_a_second_sync_embeds_nothing_whatever_the_metadata_hold(
    model: ContextualEmbedding, value: Any
) -> None:
    """Tuples and sets come back as lists, NaN equals nothing: they were embedded in every run."""
    with QdrantChunkStore("docs", location=":memory:") as store:
        corpus = Corpus(store, embed_model=model)
        document = Document(text=TEXT, id_="d", metadata={"value": value})
        try:
            corpus.sync([document])
        except REFUSED:
            return
        assert corpus.sync([document]).embedded == 0


def test_two_spellings_of_one_uuid_do_not_overwrite_each_other_in_one_add() -> None:
    """Upper case, no hyphens and braces name the same point: of four chunks one was left."""
    id_ = "0b5ad21c-7a0b-4f2e-9d7a-0123456789ab"
    spellings = [id_, id_.upper(), id_.replace("-", ""), f"{{{id_}}}"]
    with QdrantChunkStore("docs", location=":memory:") as store:
        with pytest.raises(REFUSED, match="UUID"):
            store.add([node(spelling, text=spelling) for spelling in spellings])
        assert store.count() == 0


def test_a_question_to_an_index_of_no_documents_finds_nothing(
    model: ContextualEmbedding, tmp_path: Path
) -> None:
    """It raised because there was no collection, where `count` and `get_nodes` answered."""
    for place in ({"location": ":memory:"}, {"path": tmp_path}):
        with QdrantChunkStore("docs", **place) as store:  # type: ignore[arg-type]
            index = VectorStoreIndex.from_documents(
                [], embed_model=model, storage_context=StorageContext.from_defaults(vector_store=store)
            )
            assert index.as_retriever().retrieve("Is there bread?") == []
            assert asyncio.run(index.as_retriever().aretrieve("Is there bread?")) == []
            assert store.get_nodes() == []


def test_an_index_that_rotted_on_the_disk_names_the_documents_to_index_again(
    run: Run, tmp_path: Path
) -> None:
    """Changed bytes of a closed folder came back as the document's text. (`--check` itself is new.)"""
    run("index", write(tmp_path / "docs", {"a.txt": "Bread is baked.", "b.txt": "Salt is mined."}))
    changed = 0
    for file in (tmp_path / "store").rglob("*"):
        content = file.read_bytes() if file.is_file() and "shard" in str(file) else b""
        if b"Bread" in content:
            file.write_bytes(content.replace(b"Bread", b"Blood"))
            changed += 1
    assert changed
    result = run("info", "--check")
    assert result.exit_code == 1
    assert "docs/a.txt" in result.stdout + result.stderr
    assert "docs/b.txt" not in result.stdout + result.stderr


def test_an_evaluation_over_a_damaged_cache_gives_the_same_numbers(run: Run, tmp_path: Path) -> None:
    """Half a file or a folder in its place raised raw errors; swapped vectors gave other numbers."""
    from tests.evalsets import make_set, write_chunked

    folder, cache = write_chunked(tmp_path / "set", make_set(4)), tmp_path / "cache"
    words = ("evaluate", "--set", folder, "--cache", cache, "--arms", "isolated", "--json")

    def measure() -> Any:
        (result,) = as_json(run(*words))["arms"]
        return {name: value for name, value in result.items() if name != "cost"}

    expected = measure()
    (file,) = (path for path in cache.iterdir() if path.suffix == ".sqlite")
    whole = file.read_bytes()
    for damage in (swap_vectors, lambda path: path.write_bytes(whole[: len(whole) // 2]), become_folder):
        damage(file)
        assert measure() == expected


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap_vectors(path: Path) -> None:
    """Exchange the numbers of the rows in pairs, whatever the table is called."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as connection, connection:
        ((table,),) = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = connection.execute(f"SELECT key, floats FROM {table}").fetchall()
        assert len(rows) > 3
        for (key, floats), (_, other) in zip(rows, reversed(rows)):
            if len(floats) == len(other):
                connection.execute(f"UPDATE {table} SET floats = ? WHERE key = ?", (other, key))


def test_adding_a_chunk_again_to_somebodys_hybrid_collection_keeps_its_words() -> None:
    """Its sparse vector was dropped, and the chunk was no longer found by its words."""
    from qdrant_client import QdrantClient

    client = QdrantClient(location=":memory:")
    id_ = "0b5ad21c-7a0b-4f2e-9d7a-0123456789ab"
    client.create_collection(
        "docs",
        vectors_config={"text-dense": m.VectorParams(size=4, distance=m.Distance.COSINE)},
        sparse_vectors_config={"text-sparse": m.SparseVectorParams()},
    )
    words = m.SparseVector(indices=[3], values=[1.0])
    client.upsert(
        "docs", [m.PointStruct(id=id_, vector={"text-dense": [1.0, 0, 0, 0], "text-sparse": words})]
    )
    with QdrantChunkStore("docs", client=client) as store:
        store.add([TextNode(id_=id_, text="Bread.", embedding=[0.0, 1.0, 0.0, 0.0])])
    (point,) = client.retrieve("docs", [id_], with_vectors=True)
    assert isinstance(point.vector, dict)
    assert point.vector.get("text-sparse") == words
    client.close()
