"""What a model was not trained for is refused, with the reason, unless the user insists."""

from __future__ import annotations

import json
import logging
import math
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from llama_index.core.schema import Document, NodeWithScore, TextNode

from rag_embed.encoder import Encoder
from rag_embed.errors import (
    ContextOverflowError,
    EmptyTextError,
    InputError,
    NonFiniteError,
    UnsupportedModelError,
)
from rag_embed.guards import Guard
from rag_embed.late_chunking import WindowOptions, embed_chunks, embed_isolated, embed_late
from rag_embed.late_interaction import embed_query_tokens
from rag_embed.listwise import embed_list
from rag_embed.llamaindex import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank
from rag_embed.loading import load_encoder
from rag_embed.profiles import discovery, locate_checkpoint
from rag_embed.prompts import E2RANK_CHAT
from rag_embed.spans import CharSpan
from rag_embed.vector_form import VectorForm, form_vectors
from tests.checkpoints import DIM, MAX_TOKENS
from tests.checkpoints_families import write_family

TEXT = "Berlin is the capital of Germany. Its river is the Spree."
SPANS = [CharSpan(0, 33), CharSpan(34, len(TEXT))]
FAMILIES = (
    "e5", "gte-modernbert", "qwen3-embedding", "e2rank", "pplx-embed-v1", "pplx-embed-context-v1",
    "modernbert-embed", "jina-v1",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("guards")
    return {family: write_family(parent / family, family) for family in FAMILIES}


def load(folder: Path, *insist: Guard) -> Encoder:
    return load_encoder(folder, device="cpu", dtype="float32", insist=insist)


def embedding(folder: Path, **options: object) -> ContextualEmbedding:
    given = {"device": "cpu", "dtype": "float32", "strategy": "isolated", **options}
    return ContextualEmbedding(model=str(folder), **given)


# ---------------------------------------------------------------- late chunking


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            "gte-modernbert",
            r"was trained with cls pooling, .*no vector of its space; use strategy='isolated'",
        ),
        ("qwen3-embedding", r"attends to earlier tokens only .*use strategy='isolated'"),
        ("pplx-embed-context-v1", r"was trained on chunks joined by its separator; use strategy='native'"),
    ],
)
@pytest.mark.parametrize("strategy", ["late", "blend"])
def test_late_chunking_of_a_model_that_cannot(
    folders: dict[str, Path], family: str, message: str, strategy: str
) -> None:
    encoder = load(folders[family])
    passes = encoder.forward_count
    with pytest.raises(UnsupportedModelError, match=message):
        embed_chunks(encoder, TEXT, SPANS, strategy=strategy)
    assert encoder.forward_count == passes
    insisting = load(folders[family], "late")
    vectors = embed_chunks(insisting, TEXT, SPANS, strategy=strategy)
    assert bool(vectors.isfinite().all()) and vectors.shape == (2, DIM)


def test_the_default_strategy_says_what_to_use_instead(folders: dict[str, Path]) -> None:
    model = ContextualEmbedding(model=str(folders["qwen3-embedding"]), device="cpu", dtype="float32")
    nodes = LateChunkingNodeParser().get_nodes_from_documents([Document(text=TEXT)])
    with pytest.raises(UnsupportedModelError, match=r"use strategy='isolated', or insist=\['late'\]"):
        model(nodes)


def test_native_where_there_is_none(folders: dict[str, Path]) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"has no native way .*use strategy='isolated', 'late' or"
    ):
        embed_chunks(load(folders["e5"]), TEXT, SPANS, strategy="native")
    with pytest.raises(UnsupportedModelError, match=r"together; use strategy='isolated'$"):
        embed_chunks(load(folders["qwen3-embedding"]), TEXT, SPANS, strategy="native")


def test_late_interaction_of_tokens_that_were_not_trained_to_be_compared(folders: dict[str, Path]) -> None:
    for family in ("qwen3-embedding", "gte-modernbert"):
        with pytest.raises(UnsupportedModelError, match=r"cannot be used for late interaction"):
            embed_query_tokens(load(folders[family]), "bridges?")
    encoder = load(folders["gte-modernbert"], "late")
    assert embed_query_tokens(encoder, "bridges?").shape[1] == encoder.dim


# ---------------------------------------------------------------- shorter and coarser vectors


@pytest.mark.parametrize("strategy", ["isolated", "late", "blend"])
def test_matryoshka_of_a_model_not_trained_for_it(folders: dict[str, Path], strategy: str) -> None:
    encoder, form = load(folders["e5"]), VectorForm(dim=8)
    with pytest.raises(UnsupportedModelError, match=r"\(e5\) was not trained for shorter vectors .*dim=8"):
        embed_chunks(encoder, TEXT, SPANS, strategy=strategy, form=form)
    whole = embed_chunks(load(folders["e5"], "dim"), TEXT, SPANS, strategy="isolated")
    cut = embed_chunks(load(folders["e5"], "dim"), TEXT, SPANS, strategy="isolated", form=form)
    assert torch.allclose(cut, whole[:, :8] / whole[:, :8].norm(dim=1, keepdim=True), atol=1e-6)
    assert embed_chunks(encoder, TEXT, SPANS, strategy=strategy, form=VectorForm(dim=DIM)).shape[1] == DIM


def test_a_vector_shorter_than_any_that_was_trained(folders: dict[str, Path]) -> None:
    model = embedding(folders["qwen3-embedding"], dim=16)
    with pytest.raises(UnsupportedModelError, match=r"for vectors of 32 dimensions and more, not for dim=16"):
        model.get_query_embedding("bridges?")
    with pytest.raises(InputError, match="dim is 33; expected at least 1 and at most the 32"):
        embedding(folders["qwen3-embedding"], dim=33, insist=("dim",)).get_query_embedding("bridges?")


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_codes_of_a_model_not_trained_for_them(folders: dict[str, Path], precision: str) -> None:
    model = embedding(folders["e5"], precision=precision)
    with pytest.raises(
        UnsupportedModelError, match=rf"not trained for precision '{precision}', only for \['fl"
    ):
        model.get_query_embedding("bridges?")
    insisting = embedding(folders["e5"], precision=precision, insist=("precision",))
    assert all(x == round(x) for x in insisting.get_query_embedding("bridges?"))
    assert all(x == round(x) for x in embedding(folders["pplx-embed-v1"], precision=precision)
               .get_query_embedding("bridges?"))  # fmt: skip
    with pytest.raises(InputError, match=f"a blend has no precision '{precision}'"):
        embed_chunks(
            load(folders["pplx-embed-v1"]), TEXT, SPANS, strategy="blend", form=VectorForm(None, precision)
        )


def test_vectors_without_a_direction_are_refused() -> None:
    small = torch.full((2, 4), 1e-4)
    with pytest.raises(NonFiniteError, match=r"vectors \[0, 1\] of 2 are all zero as int8"):
        form_vectors(small, VectorForm(precision="int8"))
    for precision in ("float", "int8", "binary"):
        for bad in (math.nan, math.inf):
            with pytest.raises(NonFiniteError, match=r"vectors \[1\] of 2 are not finite"):
                form_vectors(torch.tensor([[1.0, 2.0], [1.0, bad]]), VectorForm(precision=precision))


# ---------------------------------------------------------------- prefixes


def test_a_prefix_that_is_there_already(folders: dict[str, Path]) -> None:
    model = embedding(folders["e5"])
    with pytest.raises(InputError, match=r"the query 'query: bridges\?' begins with the prefix 'query: '"):
        model.get_query_embedding("query: bridges?")
    with pytest.raises(InputError, match=r"the document 'passage: Berlin' begins with the prefix"):
        model.get_text_embedding("passage: Berlin")
    with pytest.raises(InputError, match=r"the document .* begins with the prefix"):
        model.get_text_embedding_batch(["Berlin", "passage: Berlin"])
    by_hand = embedding(folders["e5"], query_prefix="", document_prefix="")
    assert by_hand.get_query_embedding("query: bridges?") == model.get_query_embedding("bridges?")


def test_a_query_that_came_through_the_document_call(folders: dict[str, Path]) -> None:
    """Seen only where the query wears its prefix; a bare one looks like any text."""
    model = embedding(folders["modernbert-embed"])
    message = r"prefix 'search_query: ' came through the document call: .*embed it as a query without"
    with pytest.raises(InputError, match=message):
        model.get_text_embedding("search_query: bridges?")
    with pytest.raises(InputError, match=r"came through the query call: .*embed it as a document"):
        model.get_query_embedding("search_document: Berlin")
    insisting = embedding(folders["modernbert-embed"], insist=("prefix",))
    assert len(insisting.get_text_embedding("search_query: bridges?")) == DIM


def test_both_sides_differ_where_the_prefixes_do(folders: dict[str, Path]) -> None:
    model = embedding(folders["e5"])
    assert model.get_query_embedding("bridges?") != model.get_text_embedding("bridges?")


# ---------------------------------------------------------------- precision and length


@pytest.mark.parametrize("family", ["pplx-embed-v1", "pplx-embed-context-v1", "jina-v1"])
def test_float16_where_it_overflows(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"overflows in float16 and gives NaN; use dtype='bfloat16'"
    ):
        load_encoder(folders[family], device="cpu", dtype="float16")
    encoder = load_encoder(folders[family], device="cpu", dtype="float16", insist=["float16"])
    assert encoder.dtype == torch.float16
    load_encoder(folders["e5"], device="cpu", dtype="float16")


def test_an_overflow_in_float16_reaches_no_vector(folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders["pplx-embed-v1"], device="cpu", dtype="float16", insist=["float16", "dim"])
    encoder._model.embed_tokens.weight.data.fill_(6e4)
    encoder._model.layers[0].mlp.down_proj.weight.data.fill_(3e4)
    with pytest.raises(NonFiniteError, match=r"in torch\.float16 on cpu returned NaN .*this is an overflow"):
        embed_isolated(encoder, [TEXT * 3])


def test_windows_above_the_limit(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=rf"windows of 65 tokens; .*at most the {MAX_TOKENS} that the model"):
        embed_late(load(folders["e5"]), TEXT, SPANS, options=WindowOptions(window_tokens=MAX_TOKENS + 1))


def test_a_text_too_long_for_a_vector_of_one_token(folders: dict[str, Path]) -> None:
    encoder = load(folders["gte-modernbert"])
    with pytest.raises(ContextOverflowError, match=r"makes its vector of one token \(cls\).*Split the text"):
        embed_isolated(encoder, ["Berlin", TEXT * 9])


def test_nothing_to_read(folders: dict[str, Path]) -> None:
    with pytest.raises(EmptyTextError, match="sees no token in ''; leave it out"):
        embed_isolated(load(folders["pplx-embed-v1"]), ["Berlin", ""])
    assert embed_isolated(load(folders["qwen3-embedding"]), [""]).shape == (1, DIM)  # its end token


# ---------------------------------------------------------------- E2Rank's own list prompt


def list_vector_by_hand(folder: Path, query: str, texts: list[str]) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    listed = "\n".join(f"[{number}] {text}" for number, text in enumerate(texts, start=1))
    content = (
        "Given a web search query and some relevant documents, rerank the documents that answer the query:\n"
        f"Documents:\n{listed}\nSearch Query: {query}"
    )
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        state = model(**tokenizer(turn, return_tensors="pt")).last_hidden_state[0, -1]
    return state / state.norm()


def test_the_list_prompt_is_e2ranks_chat(folders: dict[str, Path]) -> None:
    encoder, texts = load(folders["e2rank"]), ["Berlin has bridges.", "The Spree is a river.", "a"]
    found = embed_list(encoder, "Which river?", texts, prompt=E2RANK_CHAT)
    expected = list_vector_by_hand(folders["e2rank"], "Which river?", texts)
    assert float((found.vector - expected).abs().max()) < 1e-5
    assert found.shown_tokens == found.total_tokens
    # Special tokens in a candidate do not end the turn.
    ids = encoder.tokenize_template(E2RANK_CHAT.template, candidates="<|im_end|>", query="<|im_start|>")
    specials = [int(encoder.tokenize_template(token)[0]) for token in ("<|im_start|>", "<|im_end|>")]
    assert [int((ids == special).sum()) for special in specials] == [2, 1]


def test_candidates_are_cut_until_the_chat_fits(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = write_family(tmp_path, "e2rank")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 260}))
    encoder = load(folder)
    texts = ["The Spree is a river. " * 20, "short", "It has many bridges. " * 20]
    found = embed_list(encoder, "Which river?", texts, prompt=E2RANK_CHAT)
    assert found.shown_tokens[1] == found.total_tokens[1]
    assert 0 < found.shown_tokens[0] == found.shown_tokens[2] < found.total_tokens[0]
    shown = [
        text if count == total else text[: encoder.tokenize(text).ends[count - 1]]
        for text, count, total in zip(texts, found.shown_tokens, found.total_tokens, strict=True)
    ]
    assert float((found.vector - list_vector_by_hand(folder, "Which river?", shown)).abs().max()) < 1e-5
    with pytest.raises(ContextOverflowError, match="leave room for 0 tokens of 3 candidates"):
        embed_list(encoder, "Which river? " * 60, texts, prompt=E2RANK_CHAT)


def test_twenty_in_the_prompt_rerank_a_hundred(folders: dict[str, Path]) -> None:
    model = embedding(folders["e2rank"])
    texts = [f"Bridge {number} of the city is of stone." for number in range(100)]
    vectors = model.get_text_embedding_batch(texts)
    nodes = [
        NodeWithScore(node=TextNode(text=text, embedding=vector), score=1 - number / 100)
        for number, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    ranked = ListwiseRerank(embed_model=model, top_n=100, weight=1).postprocess_nodes(
        nodes, query_str="Which bridge?"
    )
    vector = list_vector_by_hand(folders["e2rank"], "Which bridge?", texts[:20])
    cosines = torch.tensor([node.node.embedding for node in nodes]) @ vector
    assert [node.node.text for node in ranked] == [texts[i] for i in cosines.argsort(descending=True)]


# ---------------------------------------------------------------- where files come from


def test_a_local_folder_opens_no_socket(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the hub may be asked and the config names code on it."""

    class NoSocket:
        def __init__(self, *_: object, **__: object) -> None:
            raise pytest.fail.Exception("a socket was opened", pytrace=True)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "socket", NoSocket)
    for family in ("pplx-embed-context-v1", "e5", "jina-v1"):
        profile = locate_checkpoint(folders[family])
        assert Encoder(profile, device=torch.device("cpu"), dtype=torch.float32).dim == DIM


def test_a_revision_that_may_move_is_said_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(folders["e5"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: folder)
    discovery._warn_of_open_revision.cache_clear()
    with caplog.at_level(logging.WARNING):
        locate_checkpoint("someone/e5-small-v2", revision="0" * 40)
        assert not caplog.records
        for _ in range(3):
            assert locate_checkpoint("someone/e5-small-v2").family.name == "e5"
    assert [record.getMessage() for record in caplog.records] == [
        "model 'someone/e5-small-v2' is taken from the hub at revision 'main', which may move: another "
        "upload would change vectors unseen. Pin it with revision='<commit>'"
    ]
