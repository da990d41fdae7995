"""LateChunkingNodeParser: exact places, ids and relationships, and vectors equal to the slow reference."""

from __future__ import annotations

import copy
import json
import pickle
import pydoc_data.topics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from llama_index.core import Document, MockEmbedding, Settings, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import (
    CodeSplitter,
    HierarchicalNodeParser,
    HTMLNodeParser,
    JSONNodeParser,
    MarkdownElementNodeParser,
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
from llama_index.core.vector_stores import SimpleVectorStore

from rag_embed.errors import AlignmentError, EmptySpanError, InputError
from rag_embed.evaluation.chunking import cut_document
from rag_embed.evaluation.sets import EvalDocument
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, SpanNodeParser, join_pages
from rag_embed.qdrant import QdrantChunkStore
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
    if model.strategy == "late":
        of_windows = {i: reference.unit(vector) for i, vector in late.items()}
    else:
        places = [spans[i] for i in filled]
        alone = [isolated[i] for i in filled]
        blended = reference.blend(list(late.values()), alone, model.alpha, places) if filled else []
        of_windows = dict(zip(filled, blended, strict=True))
    return np.array([of_windows.get(i, isolated[i]) for i in range(len(nodes))])


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
        assert set(node.metadata) <= {
            *document.metadata,
            "page_label",
            "window",
            "original_text",
            "header_path",
        }
    raw = [n for n in inner.get_nodes_from_documents([document]) if n.text.strip()]
    assert len(nodes) == len(raw)
    # In order among the chunks of one parent; parents overlap, so the next family may begin earlier.
    parents = [node.parent_node and node.parent_node.node_id for node in nodes]
    for parent in set(parents):
        members = [i for i, other in enumerate(parents) if other == parent]
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
@example(text=" " + "tion" * 300)
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


@pytest.mark.parametrize("before", [SentenceSplitter(chunk_size=60, chunk_overlap=0), MarkdownNodeParser()])
def test_chunks_of_another_parser_are_refused(before: NodeParser, model: ContextualEmbedding) -> None:
    """Each would be read without the rest of its document, under the name of late chunking."""
    pipeline = IngestionPipeline(transformations=[before, LateChunkingNodeParser(), model])
    with pytest.raises(InputError, match=r"handed \d+ chunks, .* of document 'd'; .*put it inside"):
        pipeline.run(documents=[Document(text=MARKDOWN_TEXT, id_="d")])


class Circular(SentenceSplitter):
    """A parser whose nodes are each other's parents."""

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> Any:
        made = super()._parse_nodes(nodes, show_progress, **kwargs)
        for node, other in zip(made, made[1:] + made[:1], strict=True):
            node.relationships = {NodeRelationship.PARENT: other.as_related_node_info()}
        return made


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (SentenceSplitter(chunk_size=60, chunk_overlap=0, id_func=lambda i, doc: "same"), r"have 1 ids"),
        (Circular(chunk_size=60, chunk_overlap=0), r"Circular made of document 'd' is its own ancestor"),
    ],
    ids=["one id", "circle"],
)
def test_nodes_that_are_no_tree_are_refused(inner: NodeParser, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LateChunkingNodeParser(node_parser=inner)([Document(text=LIST_TEXT, id_="d")])


# --- parsers that rewrite text --------------------------------------------------------------------


class Shouting(SentenceSplitter):
    """A parser none of whose chunks stands in its document."""

    def split_text_metadata_aware(self, text: str, metadata_str: str) -> list[str]:
        return [chunk.upper() for chunk in super().split_text_metadata_aware(text, metadata_str)]


class HeadedMarkdown(MarkdownNodeParser):
    """A parser that says before each section where it belongs."""

    def get_nodes_from_node(self, node: BaseNode) -> list[TextNode]:
        nodes = super().get_nodes_from_node(node)
        for section in nodes:
            section.text = f"[{section.metadata.get('header_path', '')}]\n{section.text}"
        return nodes


JSON_TEXT = json.dumps([{"name": "Ada", "born": {"year": 1815}}, {"name": "Alan", "work": ["a", "b"]}])
HTML_TEXT = "<h1>Rivers</h1><p>The Elbe is <b>long</b>.</p><div>no chunk</div><p>It ends in the sea.</p>"
TABLE_TEXT = "# Prices\n\nAll in euros.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n\nNo tax is due."

REWRITING: dict[str, tuple[Callable[[], NodeParser], str]] = {
    "json": (JSONNodeParser, JSON_TEXT),
    "tables": (lambda: MarkdownElementNodeParser(llm=MockLLM()), TABLE_TEXT),
    "headings": (HeadedMarkdown, MARKDOWN_TEXT),
    "shouting": (lambda: Shouting(chunk_size=60, chunk_overlap=0), PLAIN_TEXT),
}


@pytest.mark.parametrize("name", REWRITING)
@pytest.mark.filterwarnings("ignore")  # the table parser's own
def test_rewritten_chunks_are_read_among_each_other_and_the_log_says_so(
    tiny_folder: Path, tiny_reference: tuple, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "tables":
        pytest.importorskip("pandas")
    make, text = REWRITING[name]
    model = embedding_of(tiny_folder, strategy="late")
    document = Document(text=text, id_="d", metadata={"topic": "x"})
    nodes = LateChunkingNodeParser(node_parser=make(), embed_model=model)([document])
    assert [node.text for node in nodes] == [
        n.text for n in make().get_nodes_from_documents([document]) if n.text.strip()
    ]
    assert len(nodes) > 1
    assert {(node.start_char_idx, node.end_char_idx, node.ref_doc_id) for node in nodes} == {
        (None, None, "d")
    }
    spans, start = [], 0
    for node in nodes:
        spans.append((start, start + len(node.text)))
        start = spans[-1][1] + 2
    context = "\n\n".join(node.text for node in nodes)
    expected = expected_vectors(nodes, context, spans, model, tiny_reference)
    np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)
    (record,) = [r for r in caplog.records if r.name.startswith("rag_embed")]
    assert "rewrites the text of 1 of 1 documents" in record.getMessage()
    assert "document 'd': chunk " in record.getMessage()


def test_html_is_read_by_what_the_parser_makes_of_it(model: ContextualEmbedding) -> None:
    pytest.importorskip("bs4")
    nodes = LateChunkingNodeParser(node_parser=HTMLNodeParser(), embed_model=model)(
        [Document(text=HTML_TEXT, id_="d")]
    )
    assert len(nodes) > 1
    assert all(node.embedding for node in nodes)


def test_a_rewriting_parser_cannot_cut_an_evaluation_set() -> None:
    """There answers are found again by their characters."""
    document = EvalDocument("d", title="", text=PLAIN_TEXT, spans=())
    with pytest.raises(AlignmentError, match="rewrites document 'd'"):
        cut_document(document, Shouting(chunk_size=60, chunk_overlap=0))


# --- chunks that somebody else has made -----------------------------------------------------------


def test_given_spans_are_kept_as_they_are(tiny_folder: Path, tiny_reference: tuple) -> None:
    """Also where the text repeats, where they overlap, leave gaps, or come in another order."""
    model = embedding_of(tiny_folder, strategy="late")
    spans = [[34, 51], [0, 17], [40, 90], [200, 217]]
    document = Document(text=REPEATS, id_="d", metadata={"spans": spans, "title": "t"})
    nodes = LateChunkingNodeParser(node_parser=SpanNodeParser(), embed_model=model)([document])
    assert [list(place) for place in spans_of(nodes)] == spans
    assert [node.text for node in nodes] == [REPEATS[start:end] for start, end in spans]
    assert all(node.metadata == {"title": "t"} for node in nodes)
    assert all("spans" not in str(info) for node in nodes for info in node.relationships.values())
    expected = expected_vectors(nodes, REPEATS, spans, model, tiny_reference)
    np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (None, r"document 'd' has None under metadata key 'spans'; expected .*\[\[start, end\], \.\.\.\]"),
        ("0-5", r"has 0-5 under"),
        ([[0]], r"has \[\[0\]\] under"),
        ([[5, 2]], r"document 'd': character span \[5, 2\)"),
        ([[0, 99]], r"document 'd' has 9 characters and the span \[0, 99\)"),
    ],
)
def test_spans_that_are_none_are_refused(spans: object, message: str) -> None:
    document = Document(text="some text", id_="d", metadata={"spans": spans})
    with pytest.raises(InputError, match=message):
        LateChunkingNodeParser(node_parser=SpanNodeParser())([document])


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


def read_pages() -> list[Document]:
    """Four pages of one file, with random ids, among others; as a reader of PDF gives them."""

    def page(text: str, label: int) -> Document:
        metadata = {"file_path": "a.pdf", "page_label": str(label), "title": "Lists"}
        return Document(text=text, metadata=metadata, excluded_embed_metadata_keys=["page_label"])

    texts = [LIST_TEXT[:500], "", " \n", LIST_TEXT[500:]]
    own = [page(text, label) for label, text in enumerate(texts, start=1)]
    others = [
        Document(text=PLAIN_TEXT, metadata={"file_path": "b.txt", "title": "Assert"}),
        Document(text="No path.", id_="z"),
    ]
    return [own[0], others[0], *own[1:], others[1]]


def test_joined_pages_are_one_document(tiny_folder: Path, tiny_reference: tuple) -> None:
    model = embedding_of(tiny_folder, strategy="late")
    pages = read_pages()
    before = [page.to_dict() for page in pages]
    joined, other, bare = join_pages(pages)
    assert [page.to_dict() for page in pages] == before
    assert joined.text == "\n\n".join([LIST_TEXT[:500], "", " \n", LIST_TEXT[500:]])
    assert (joined.id_, other.id_, bare.id_) == ("a.pdf", "b.txt", "z")
    assert joined.metadata == {"file_path": "a.pdf", "title": "Lists"}
    assert (other.text, other.metadata) == (PLAIN_TEXT, pages[1].metadata)
    inner = SentenceSplitter(chunk_size=60, chunk_overlap=20)
    nodes = LateChunkingNodeParser(node_parser=inner, embed_model=model)([joined])
    # Cut page by page, as LlamaIndex does, and read as one text.
    raw = [node for page in pages if page.metadata.get("file_path") == "a.pdf" for node in inner([page])]
    raw = [node for node in raw if node.text.strip()]
    assert [node.text for node in nodes] == [node.text for node in raw]
    assert [node.metadata for node in nodes] == [node.metadata for node in raw]
    assert {node.metadata["page_label"] for node in nodes} == {"1", "4"}
    assert {node.ref_doc_id for node in nodes} == {"a.pdf"}
    assert [node.text for node in nodes] == [joined.text[start:end] for start, end in spans_of(nodes)]
    assert len({node.node_id for node in nodes}) == len(nodes)
    expected = expected_vectors(nodes, joined.text, spans_of(nodes), model, tiny_reference)
    np.testing.assert_allclose(vectors_of(nodes), expected, atol=1e-5)


def facts(nodes: Sequence[BaseNode]) -> dict[str, tuple]:
    return {node.node_id: (node.text, node.metadata, node.embedding) for node in nodes}


@pytest.mark.parametrize("way", ["insert", "refresh", "upserts", "one by one", "workers"])
def test_every_way_reads_joined_pages_alike(tiny_folder: Path, way: str) -> None:
    model = embedding_of(tiny_folder)
    parser = LateChunkingNodeParser(chunk_size=60, chunk_overlap=20, embed_model=model)
    wanted = facts(parser(join_pages(read_pages())))
    with QdrantChunkStore("docs", location=":memory:") as store:
        context = StorageContext.from_defaults(vector_store=store)
        if way == "upserts":
            edited = read_pages()
            edited[0].set_content("Another first page.")
            for documents in (edited, read_pages()):
                pipeline = IngestionPipeline(
                    transformations=[parser], vector_store=store, docstore=context.docstore
                )
                pipeline.run(documents=join_pages(documents))
        elif way == "workers":
            pipeline = IngestionPipeline(transformations=[parser], vector_store=store)
            pipeline.run(documents=join_pages(read_pages()), num_workers=2)
        else:
            index = VectorStoreIndex([], storage_context=context, transformations=[parser], embed_model=model)
            for document in join_pages(read_pages()):
                if way == "refresh":
                    assert index.refresh_ref_docs([document]) == [True]
                elif way == "one by one":
                    index.insert_nodes(parser([document]))
                else:
                    index.insert(document)
        found = store.get_nodes()
        assert {node.node_id: (node.text, node.metadata) for node in found} == {
            node_id: fact[:2] for node_id, fact in wanted.items()
        }
        for node in found:
            np.testing.assert_allclose(node.embedding, wanted[node.node_id][2], atol=1e-6)


def test_pages_that_are_not_joined_are_read_apart_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parser = LateChunkingNodeParser(chunk_size=60, chunk_overlap=20)
    parser(join_pages(read_pages()))
    assert not caplog.records
    parser(read_pages())
    (record,) = caplog.records
    assert "the pages of a.pdf are documents of their own" in record.getMessage()
    assert "join_pages(documents)" in record.getMessage()


def test_joining_again_gives_the_same_ids_and_survives_json() -> None:
    first, again = (join_pages(read_pages()) for _ in range(2))
    parser = LateChunkingNodeParser(chunk_size=60, chunk_overlap=20)
    assert facts(parser(first)) == facts(parser(again))
    copies = [Document.from_json(document.to_json()) for document in first]
    assert facts(parser(copies)) == facts(parser(first))
    assert facts(pickle.loads(pickle.dumps(parser))(pickle.loads(pickle.dumps(first)))) == facts(
        parser(first)
    )


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
    parser = LateChunkingNodeParser(node_parser=inner, embed_model=model)
    before = texts_and_vectors(parser)
    twin = clone(parser)
    assert texts_and_vectors(twin) == before
    assert texts_and_vectors(parser) == before, "copying damaged the original"
    assert type(twin.node_parser) is type(inner)
    assert len(pickle.dumps(parser)) < 20_000


def test_round_trip_through_a_dict(inner: NodeParser, model: ContextualEmbedding) -> None:
    parser = LateChunkingNodeParser(node_parser=inner, embed_model=model)
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


# --- whose model embeds ---------------------------------------------------------------------------


@pytest.fixture
def clean_settings() -> Iterator[None]:
    kept = dict(Settings.__dict__)
    Settings._transformations = None
    yield
    Settings.__dict__.clear()
    Settings.__dict__.update(kept)


def held(store: SimpleVectorStore) -> dict[str, list[float]]:
    return dict(store.data.embedding_dict)


@pytest.mark.parametrize("way", ["from_documents", "with the model behind it", "settings", "transformations"])
def test_a_forgotten_embed_model_still_gives_vectors_in_context(
    model: ContextualEmbedding, way: str, clean_settings: None
) -> None:
    """An index would embed the parser's chunks as strings; also those of a document inserted later."""
    texts = {"a": LIST_TEXT, "b": PLAIN_TEXT}
    documents = [Document(text=text, id_=name) for name, text in texts.items()]
    wanted = LateChunkingNodeParser(chunk_size=60, chunk_overlap=0, embed_model=model)(documents)
    parser = LateChunkingNodeParser(chunk_size=60, chunk_overlap=0)
    if way == "settings":
        Settings.node_parser, Settings.embed_model = parser, model
        index = VectorStoreIndex.from_documents(documents[:1])
    elif way == "transformations":
        Settings.transformations, Settings.embed_model = [parser], model
        index = VectorStoreIndex.from_documents(documents[:1])
    else:
        steps = [parser, model] if way == "with the model behind it" else [parser]
        index = VectorStoreIndex.from_documents(documents[:1], transformations=steps, embed_model=model)
    index.insert(documents[1])
    assert held(index.vector_store) == {node.node_id: node.embedding for node in wanted}


def test_a_parser_of_another_model_than_the_index_is_refused(
    model: ContextualEmbedding, tiny_folder: Path
) -> None:
    parser = LateChunkingNodeParser(embed_model=embedding_of(tiny_folder, strategy="late"))
    with pytest.raises(InputError, match=r"parser embeds with '.*/late/.*' and the index asks with"):
        VectorStoreIndex.from_documents(
            [Document(text=PLAIN_TEXT)], transformations=[parser], embed_model=model
        )


# --- arguments that splitters have ----------------------------------------------------------------


def test_the_splitters_arguments_make_the_inner_parser() -> None:
    inner = LateChunkingNodeParser(chunk_size=128, chunk_overlap=7, paragraph_separator="|").node_parser
    assert isinstance(inner, SentenceSplitter)
    assert (inner.chunk_size, inner.chunk_overlap, inner.paragraph_separator) == (128, 7, "|")


@pytest.mark.parametrize("name", PARSERS)
def test_what_a_parser_shall_leave_out_is_left_out(name: str, model: ContextualEmbedding) -> None:
    parser = LateChunkingNodeParser(
        node_parser=PARSERS[name](model), include_metadata=False, include_prev_next_rel=False
    )
    nodes = parser([Document(text=MARKDOWN_TEXT, id_="d", metadata={"title": "t"})])
    assert len(nodes) > 1
    assert all("title" not in node.metadata for node in nodes)
    neighbours = {NodeRelationship.PREVIOUS, NodeRelationship.NEXT}
    assert not any(neighbours & set(node.relationships) for node in nodes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_key": "file"}, r"context_key='file'; .*join_pages\(documents\)"),
        ({"id_func": lambda i, doc: "x"}, r"ids are made of document id, position and text"),
        ({"node_parser": SentenceSplitter(), "chunk_size": 3}, r"node_parser= and chunk_size; expected one"),
        ({"embedding_model": None}, r"no argument 'embedding_model'; did you mean 'embed_model'\?"),
    ],
)
def test_arguments_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LateChunkingNodeParser(**options)
