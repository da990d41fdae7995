"""LateChunkingNodeParser: exact places, ids and relationships, and vectors equal to the slow reference."""

from __future__ import annotations

import copy
import json
import pickle
import pydoc_data.topics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import (
    CodeSplitter,
    HierarchicalNodeParser,
    MarkdownNodeParser,
    NodeParser,
    SemanticSplitterNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TokenTextSplitter,
    get_leaf_nodes,
)
from llama_index.core.retrievers import AutoMergingRetriever
from llama_index.core.schema import BaseNode, ImageDocument, MetadataMode, NodeRelationship, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from rag_embed.errors import AlignmentError, EmptySpanError, InputError
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.stamp import ChunkStamp
from tests import reference
from tests.strategies import documents

TOPICS = pydoc_data.topics.topics
LIST_TEXT = TOPICS["lists"]
PLAIN_TEXT = TOPICS["assert"]
MARKDOWN_TEXT = "\n\n".join(
    ["# Expressions\n\nWhat they are.", *(f"## {key}\n\n{TOPICS[key][:700]}" for key in ("lists", "lambda"))]
)
REPEATS = "Do it all again. " * 30
ADVERSARIAL = {
    "repeats": REPEATS,
    "repeated lines": "\n\n".join(["the same", "the same", "another", "the same"] * 12),
    "emoji": "👨‍👩‍👧‍👦 family. 🏳️‍🌈 flag! 👍🏽👍🏽👍🏽 " * 8,
    "combining": "e\u0301a\u0308 Z\u0351\u036b\u0343algo. नमस्ते กำ. " * 8,
    "crlf": "One line.\r\nTwo lines.\r\n\r\nThird   paragraph.\r\n" * 8,
    "zero width": "zero\u200bwidth \u200b\u2060 soft\u00adhyphen. " * 8 + "\n\n\u200b\n\n\u200b\n\nend",
    "only zero width": "\u200b",
    "no blanks": "abcdefghij" * 30,
    "form feeds": "page one.\x0c\x0cpage two.\x0b\x1cpage three.\u2028\u3000" * 10,
    "one character": "a",
    "empty": "",
    "only blanks": " \n\t\r\n \u3000 ",
}

MakeParser = Callable[[ContextualEmbedding], NodeParser]
PARSERS: dict[str, MakeParser] = {
    "sentence": lambda _: SentenceSplitter(chunk_size=60, chunk_overlap=20),
    "token": lambda _: TokenTextSplitter(chunk_size=40, chunk_overlap=10),
    "markdown": lambda _: MarkdownNodeParser(),
    "hierarchical": lambda _: HierarchicalNodeParser.from_defaults(chunk_sizes=[160, 40], chunk_overlap=8),
    "sentence window": lambda _: SentenceWindowNodeParser(window_size=1),
    "semantic": lambda model: SemanticSplitterNodeParser(
        embed_model=model, breakpoint_percentile_threshold=70
    ),
}


def embedding_of(folder: Path, **options: object) -> ContextualEmbedding:
    return ContextualEmbedding(model=str(folder), device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> ContextualEmbedding:
    return embedding_of(tiny_folder)


@pytest.fixture(params=PARSERS)
def inner(request: pytest.FixtureRequest, model: ContextualEmbedding) -> NodeParser:
    return PARSERS[request.param](model)


# --- the slow way ---------------------------------------------------------------------------------


def is_shared(key: str, nodes: Sequence[BaseNode]) -> bool:
    """Whether all nodes have this metadata in common and none of them hides it from embedding."""
    value = nodes[0].metadata.get(key)
    return all(
        node.metadata.get(key) == value and key not in node.excluded_embed_metadata_keys for node in nodes
    )


def shared_head(nodes: Sequence[BaseNode]) -> str:
    """The lines of metadata that all nodes have in common."""
    lines = [f"{key}: {value}\n" for key, value in nodes[0].metadata.items() if is_shared(key, nodes)]
    return "".join(lines) + ("\n" if lines else "")


def own_text(node: BaseNode, nodes: Sequence[BaseNode]) -> str:
    """A node's text behind the lines of metadata that it does not share with all others."""
    hidden = node.excluded_embed_metadata_keys
    lines = [
        f"{key}: {value}"
        for key, value in node.metadata.items()
        if key not in hidden and not is_shared(key, nodes)
    ]
    return ("\n".join(lines) + f"\n\n{node.text}").strip() if lines else node.text


def isolated_reference(loaded: tuple, text: str, max_tokens: int, overlap: int) -> list[float]:
    """The reference's isolated vector; for a text without tokens what the model makes of nothing."""
    network, tokenizer = loaded
    token_count = len(reference.tokenize(tokenizer, text)[0])
    if token_count + 2 <= network.config.max_position_embeddings:
        max_tokens = network.config.max_position_embeddings
    if not token_count:
        empty = [tokenizer.cls_token_id, tokenizer.sep_token_id]
        return reference.unit(reference.mean(reference.run_alone(network, empty)))
    return reference.isolated_vector(network, tokenizer, text, max_tokens, overlap)


def expected_vectors(
    nodes: Sequence[BaseNode],
    context: str,
    spans: Sequence[tuple[int, int]],
    model: ContextualEmbedding,
    loaded: tuple,
) -> np.ndarray:
    """Vectors of one context's nodes by tests/reference.py alone."""
    network, tokenizer = loaded
    declared = json.loads((model.profile.folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    limit = model.window_tokens or declared
    prefix = model.document_prefix or ""
    if model.strategy == "blend" and model.head == "metadata":
        texts = [prefix + own_text(node, nodes) for node in nodes]
    else:
        texts = [prefix + node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    isolated = [
        isolated_reference(loaded, text, limit, min(model.overlap_tokens, (limit - 2) // 2)) for text in texts
    ]
    if model.strategy == "isolated":
        return np.array(isolated)
    head = prefix + (shared_head(nodes) if model.head == "metadata" else "")
    head_ids = reference.tokenize(tokenizer, head)[0][: min(model.head_tokens, (limit - 2) // 2)]
    overlap = min(model.overlap_tokens, (limit - 2 - len(head_ids)) // 2)
    try:
        reference.token_spans(reference.tokenize(tokenizer, context)[1], context, spans)
        empty: set[int] = set()
    except EmptySpanError as error:
        empty = set(error.indices)
    filled = [index for index in range(len(spans)) if index not in empty]
    late = dict(
        zip(
            filled,
            reference.late_vectors(
                network, tokenizer, context, [spans[i] for i in filled], limit, overlap, head_ids
            )
            if filled
            else [],
            strict=True,
        )
    )
    alpha = 1.0 if model.strategy == "late" else model.alpha
    return np.array(
        [
            reference.blend(late[i], isolated[i], alpha) if i in late else isolated[i]
            for i in range(len(nodes))
        ]
    )


def spans_of(nodes: Sequence[BaseNode]) -> list[tuple[int, int]]:
    return [(node.start_char_idx, node.end_char_idx) for node in nodes]


def vectors_of(nodes: Sequence[BaseNode]) -> np.ndarray:
    return np.array([node.embedding for node in nodes])


def depth_of(node: BaseNode, nodes: Sequence[BaseNode]) -> int:
    by_id = {other.node_id: other for other in nodes}
    depth = 0
    while node.parent_node is not None:
        node = by_id[node.parent_node.node_id]
        depth += 1
    return depth


def related_ids(node: BaseNode) -> dict[NodeRelationship, list[str]]:
    return {
        kind: [info.node_id for info in (related if isinstance(related, list) else [related])]
        for kind, related in node.relationships.items()
    }


def check_nodes(nodes: Sequence[TextNode], inner: NodeParser, document: Document) -> None:
    """Assert places, ids and relationships of one document's nodes."""
    text, document_id = document.text, document.id_
    for node in nodes:
        assert node.text == text[node.start_char_idx : node.end_char_idx]
        assert node.text.strip()
        assert node.ref_doc_id == document_id
        stamp = ChunkStamp.from_node(node)
        assert (stamp.start, stamp.end) == (node.start_char_idx, node.end_char_idx)
        assert set(node.metadata) <= {*document.metadata, "window", "original_text", "header_path"}
    raw = [n for n in inner.get_nodes_from_documents([document]) if n.text.strip()]
    assert len(nodes) == len(raw)
    for level in {depth_of(node, nodes) for node in nodes}:
        members = [i for i, node in enumerate(nodes) if depth_of(node, nodes) == level]
        reference.check_alignment(text, [raw[i].text for i in members], spans_of([nodes[i] for i in members]))
    ids = {node.node_id for node in nodes}
    assert len(ids) == len(nodes)
    for node in nodes:
        for kind, related in related_ids(node).items():
            if kind == NodeRelationship.SOURCE:
                assert related == [document_id]
            else:
                assert ids.issuperset(related), f"{kind} of {node.node_id} points to a node that is not there"


# --- places and vectors, parser by parser ---------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [LIST_TEXT, PLAIN_TEXT, MARKDOWN_TEXT, *ADVERSARIAL.values()],
    ids=["lists", "assert", "markdown", *ADVERSARIAL],
)
def test_nodes_are_where_they_say(
    inner: NodeParser, model: ContextualEmbedding, tiny_reference: tuple, text: str
) -> None:
    document = Document(text=text, id_="d", metadata={"topic": "Python"})
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([document])
    check_nodes(nodes, inner, document)
    assert bool(nodes) == bool(text.strip())
    if nodes:
        expected = expected_vectors(nodes, text, spans_of(nodes), model, tiny_reference)
        np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)


@pytest.mark.parametrize("name", PARSERS)
@given(text=documents())
@example(text="a\n\n\u200b\n\nb")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nodes_of_any_text(model: ContextualEmbedding, tiny_reference: tuple, name: str, text: str) -> None:
    inner = PARSERS[name](model)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([Document(text=text, id_="d")])
    check_nodes(nodes, inner, Document(text=text, id_="d"))
    assert all(len(node.embedding) == 32 for node in nodes)
    if len(text) < 120:
        expected = expected_vectors(nodes, text, spans_of(nodes), model, tiny_reference)
        np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)


@pytest.mark.parametrize("metadata", [{}, {"title": "Lists of things", "file_name": "lists.txt", "page": 3}])
@pytest.mark.parametrize("strategy", ["late", "isolated", "blend"])
def test_strategies_equal_the_reference(
    tiny_folder: Path, tiny_reference: tuple, inner: NodeParser, strategy: str, metadata: dict
) -> None:
    model = embedding_of(tiny_folder, strategy=strategy, alpha=0.3)
    document = Document(
        text=MARKDOWN_TEXT[:1000], metadata=metadata, excluded_embed_metadata_keys=["file_name"], id_="d"
    )
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([document])
    expected = expected_vectors(nodes, document.text, spans_of(nodes), model, tiny_reference)
    assert len(nodes) > 1
    np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)
    if metadata and strategy == "late":
        bare = expected_vectors(
            nodes,
            document.text,
            spans_of(nodes),
            embedding_of(tiny_folder, strategy="late", head="none"),
            tiny_reference,
        )
        assert np.abs(vectors_of(nodes) - bare).max() > 1e-2, "the head made no difference"


@pytest.mark.parametrize("strategy", ["late", "blend"])
def test_the_embedded_encoder_equals_the_reference(minilm_reference: tuple, strategy: str) -> None:
    model = ContextualEmbedding(device="cpu", dtype="float32", strategy=strategy, adapter=None)
    document = Document(text=LIST_TEXT + TOPICS["dict"][:700], metadata={"title": "Displays"}, id_="d")
    inner = SentenceSplitter(chunk_size=100, chunk_overlap=20)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([document])
    assert len(nodes) > 3
    expected = expected_vectors(nodes, document.text, spans_of(nodes), model, minilm_reference)
    np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)


def test_code_splitter(model: ContextualEmbedding) -> None:
    pytest.importorskip("tree_sitter_language_pack")
    text = Path(copy.__file__).read_text(encoding="utf-8")
    inner = CodeSplitter(language="python", chunk_lines=20, chunk_lines_overlap=5, max_chars=600)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([Document(text=text, id_="d")])
    check_nodes(nodes, inner, Document(text=text, id_="d"))


def test_chained_parsers_are_aligned_to_their_section(model: ContextualEmbedding) -> None:
    sections = MarkdownNodeParser()([Document(text=MARKDOWN_TEXT, id_="d")])
    inner = SentenceSplitter(chunk_size=60, chunk_overlap=0)
    by_id = {section.node_id: section.text for section in sections}
    for node in LateChunkingNodeParser(node_parser=inner, embed_model=model)(sections):
        assert node.embedding is not None
        assert any(text[node.start_char_idx : node.end_char_idx] == node.text for text in by_id.values())


def test_a_parser_that_rewrites_text_is_refused() -> None:
    class Shouting(SentenceSplitter):
        def split_text_metadata_aware(self, text: str, metadata_str: str) -> list[str]:
            return [chunk.upper() for chunk in super().split_text_metadata_aware(text, metadata_str)]

    with pytest.raises(
        AlignmentError, match=r"chunk 0 of \d+ is not a part of its document.*keeps the document"
    ):
        LateChunkingNodeParser(node_parser=Shouting())([Document(text=PLAIN_TEXT)])


def test_a_copied_document_vector_is_dropped() -> None:
    document = Document(text=LIST_TEXT, embedding=[1.0, 2.0])
    assert [n.embedding for n in SentenceSplitter()([document])] == [[1.0, 2.0]]
    assert [n.embedding for n in LateChunkingNodeParser()([document])] == [None]
    assert document.embedding == [1.0, 2.0]


def test_blank_chunks_are_left_out_and_bypassed(model: ContextualEmbedding) -> None:
    inner = SentenceWindowNodeParser(sentence_splitter=lambda text: text.split("|"))
    document = Document(text="One. | |\n|Two.| ", id_="d")
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([document])
    check_nodes(nodes, inner, document)
    first, second = nodes
    assert (first.text, second.text) == ("One. ", "Two.")
    assert (first.next_node.node_id, second.prev_node.node_id) == (second.node_id, first.node_id)
    assert (first.prev_node, second.next_node) == (None, None)


async def test_async_equals_sync(inner: NodeParser, model: ContextualEmbedding) -> None:
    parser = LateChunkingNodeParser(node_parser=inner, embed_model=model)
    texts = [LIST_TEXT, MARKDOWN_TEXT]
    sync = parser([Document(text=text, id_=f"d{i}") for i, text in enumerate(texts)])
    other = await parser.acall([Document(text=text, id_=f"d{i}") for i, text in enumerate(texts)])
    assert [n.to_dict() for n in other] == [n.to_dict() for n in sync]
    assert [n.embedding for n in other] == [n.embedding for n in sync]


# --- ids ------------------------------------------------------------------------------------------


def test_ids_depend_on_document_place_and_text_only(inner: NodeParser) -> None:
    def ids(text: str, document_id: str = "d", **metadata: str) -> list[str]:
        return [
            n.node_id
            for n in LateChunkingNodeParser(node_parser=inner)(
                [Document(text=text, id_=document_id, metadata=metadata)]
            )
        ]

    first = ids(MARKDOWN_TEXT)
    assert ids(MARKDOWN_TEXT) == first
    assert not set(ids(MARKDOWN_TEXT, "other")) & set(first)
    edited = ids(MARKDOWN_TEXT + " More.")
    assert 0 < len(set(edited) - set(first)) <= 2
    assert len(set(ids(REPEATS))) == len(ids(REPEATS))


def test_a_second_run_without_docstore_adds_nothing(model: ContextualEmbedding) -> None:
    from llama_index.core.vector_stores import SimpleVectorStore

    store = SimpleVectorStore()
    counts = []
    for _ in range(2):
        IngestionPipeline(
            transformations=[
                LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=60, chunk_overlap=0)),
                model,
            ],
            vector_store=store,
        ).run(documents=[Document(text=LIST_TEXT, id_="a"), Document(text=PLAIN_TEXT, id_="b")])
        counts.append(len(store.data.embedding_dict))
    assert counts[0] == counts[1] > 4


# --- pages of one file ----------------------------------------------------------------------------


def test_context_key_joins_pages(tiny_folder: Path, tiny_reference: tuple) -> None:
    model = embedding_of(tiny_folder, strategy="late")
    pages = [LIST_TEXT[:500], "", " \n", LIST_TEXT[500:]]
    joined = "\n\n".join(pages)

    def read() -> list[Document]:
        others = [
            Document(text=PLAIN_TEXT, id_="x", metadata={"path": "y"}),
            Document(text="No path.", id_="z"),
        ]
        own = [
            Document(text=text, id_=f"p{i}", metadata={"path": "a", "page": i})
            for i, text in enumerate(pages)
        ]
        return [own[0], others[0], *own[1:], others[1]]

    inner = SentenceSplitter(chunk_size=60, chunk_overlap=20)
    together = LateChunkingNodeParser(node_parser=inner, embed_model=model, context_key="path")(read())
    alone = LateChunkingNodeParser(node_parser=inner, embed_model=model)(read())
    by_id = {node.node_id: node for node in alone}
    assert set(by_id) == {node.node_id for node in together}
    own = [node for node in together if node.metadata.get("path") == "a"]
    starts = dict(
        zip(
            ["p0", "p1", "p2", "p3"],
            np.cumsum([0] + [len(page) + 2 for page in pages]).tolist(),
            strict=False,
        )
    )
    spans = [(starts[n.ref_doc_id] + n.start_char_idx, starts[n.ref_doc_id] + n.end_char_idx) for n in own]
    for node, (start, end) in zip(own, spans, strict=True):
        page = pages[int(node.ref_doc_id[1:])]
        assert node.text == page[node.start_char_idx : node.end_char_idx] == joined[start:end]
    assert shared_head(own) == "path: a\n\n"
    expected = expected_vectors(own, joined, spans, model, tiny_reference)
    np.testing.assert_allclose(vectors_of(own), expected, atol=1e-5)
    assert all(np.abs(np.subtract(n.embedding, by_id[n.node_id].embedding)).max() > 1e-3 for n in own)
    rest = [node for node in together if node.metadata.get("path") != "a"]
    assert [n.embedding for n in rest] == [by_id[n.node_id].embedding for n in rest]


def test_equal_texts_of_two_documents_are_two_contexts(model: ContextualEmbedding) -> None:
    """Each is read under its own metadata, whether they come in one call or in two."""
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=60, chunk_overlap=0), embed_model=model
    )

    def read(name: str) -> Document:
        return Document(text=LIST_TEXT, id_=name, metadata={"title": f"title {name}"})

    together = parser([read("a"), read("b")])
    apart = parser([read("a")]) + parser([read("b")])
    assert [n.embedding for n in together] == [n.embedding for n in apart]
    assert together[0].embedding != together[len(together) // 2].embedding


# --- hierarchical ---------------------------------------------------------------------------------


def test_auto_merging_retriever_over_hierarchical_nodes(model: ContextualEmbedding) -> None:
    parser = LateChunkingNodeParser(node_parser=PARSERS["hierarchical"](model), embed_model=model)
    text = LIST_TEXT + "\n\n" + PLAIN_TEXT
    nodes = parser([Document(text=text, id_="d")])
    leaves = get_leaf_nodes(nodes)
    by_id = {node.node_id: node for node in nodes}
    assert 0 < len(leaves) < len(nodes)
    for node in nodes:
        children = [by_id[info.node_id] for info in node.child_nodes or []]
        assert {child.parent_node.node_id for child in children} <= {node.node_id}
        for child in children:
            assert node.start_char_idx <= child.start_char_idx < child.end_char_idx <= node.end_char_idx
        if node.next_node:
            assert by_id[node.next_node.node_id].prev_node.node_id == node.node_id
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)
    context = StorageContext.from_defaults(docstore=docstore)
    index = VectorStoreIndex(leaves, storage_context=context, embed_model=model)
    retriever = AutoMergingRetriever(index.as_retriever(similarity_top_k=len(leaves)), context)
    merged = retriever.retrieve("list displays")
    assert {hit.node.node_id for hit in merged} == {
        node.node_id for node in nodes if node.parent_node is None
    }


@pytest.mark.parametrize("level", [0, 1])
def test_one_level_of_a_hierarchy_is_enough(tiny_folder: Path, tiny_reference: tuple, level: int) -> None:
    model = embedding_of(tiny_folder, strategy="late")
    nodes = LateChunkingNodeParser(node_parser=PARSERS["hierarchical"](model))(
        [Document(text=LIST_TEXT, id_="d")]
    )
    members = [node for node in nodes if depth_of(node, nodes) == level]
    model(members)
    expected = expected_vectors(members, LIST_TEXT, spans_of(members), model, tiny_reference)
    np.testing.assert_allclose(vectors_of(members), expected, atol=1e-5)


# --- copies ---------------------------------------------------------------------------------------


def texts_and_vectors(parser: LateChunkingNodeParser) -> list[tuple]:
    nodes = parser([Document(text=MARKDOWN_TEXT, id_="d", metadata={"title": "t"})])
    return [(n.node_id, n.text, n.metadata, n.embedding) for n in nodes]


@pytest.mark.parametrize(
    "clone", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@pytest.mark.filterwarnings("ignore")
def test_copies_do_the_same(inner: NodeParser, model: ContextualEmbedding, clone: Callable) -> None:
    parser = LateChunkingNodeParser(node_parser=inner, embed_model=model, context_key="file")
    before = texts_and_vectors(parser)
    twin = clone(parser)
    assert texts_and_vectors(twin) == before
    assert texts_and_vectors(parser) == before, "copying damaged the original"
    assert (twin.context_key, type(twin.node_parser)) == ("file", type(inner))
    assert len(pickle.dumps(parser)) < 20_000


def test_round_trip_through_a_dict(inner: NodeParser, model: ContextualEmbedding) -> None:
    parser = LateChunkingNodeParser(node_parser=inner, embed_model=model, context_key="file")
    written = parser.to_dict()
    before = copy.deepcopy(written)
    if isinstance(inner, HierarchicalNodeParser):
        with pytest.raises(
            ValueError, match=r"does not write down its inner parsers' sizes.*construct it again"
        ):
            LateChunkingNodeParser.from_dict(written)
        return
    twin = LateChunkingNodeParser.from_dict(written)
    assert written == before
    assert type(twin.node_parser) is type(inner)
    assert twin.to_dict() == before
    assert texts_and_vectors(twin) == texts_and_vectors(parser)
    assert LateChunkingNodeParser.from_json(parser.to_json()).to_dict() == before


def test_what_cannot_be_read_back_is_refused() -> None:
    class Own(SentenceSplitter):
        @classmethod
        def class_name(cls) -> str:
            return "base_component"

    written = LateChunkingNodeParser(node_parser=Own()).to_dict()
    with pytest.raises(
        ValueError, match=r"'base_component', which does not name one class.*construct it again"
    ):
        LateChunkingNodeParser.from_dict(written)
    foreign = LateChunkingNodeParser(embed_model=MockEmbedding(embed_dim=3)).to_dict()
    assert isinstance(LateChunkingNodeParser.from_dict(foreign).embed_model, MockEmbedding)


def test_a_parser_without_parts_round_trips() -> None:
    parser = LateChunkingNodeParser.from_dict(LateChunkingNodeParser().to_dict())
    assert parser.embed_model is None
    assert type(parser.node_parser) is SentenceSplitter


def test_other_nodes_than_text_are_refused() -> None:
    class Images(SentenceSplitter):
        def _parse_nodes(
            self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: object
        ) -> list:
            from llama_index.core.schema import Node

            return [Node(id_="n")]

    with pytest.raises(InputError, match="Images made a Node; expected text nodes"):
        LateChunkingNodeParser(node_parser=Images())([ImageDocument(text="x")])
