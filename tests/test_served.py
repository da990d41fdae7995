"""Served encoders equal the local one or say why not; the wire is a stand-in, its states a real encoder."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_index.core import Document
from llama_index.core.node_parser import SentenceSplitter
from typer.testing import CliRunner, Result

from rag_embed import ContextualEmbedding, LateChunkingNodeParser
from rag_embed.encoder import Encoder
from rag_embed.errors import (
    EncoderAnswerError,
    EncoderUnavailableError,
    InputError,
    NonFiniteError,
    UnsupportedModelError,
)
from rag_embed.profiles.multi_vector import MultiVector
from rag_embed.served import KEY_VARIABLE, Server
from rag_embed.served.encoder import ServedEncoder
from rag_embed.served.probe import probe
from tests.kills import write_documents
from tests.served_standin import Standin, serving

KEY = "sk-Very-Secret-0123456789"
TEXT = (
    "Berlin is the capital of Germany, and its people are at the river. "
    "The city has a bridge that is with water. {braces} and [SEP] are characters.\n\n"
    "This is the latest station: 東京 and ünïcödé. It has a river.\n\n"
) * 6
# Loopback answers of the same weights in other company: rounding of float32, far below the probe's 1e-3.
TOLERANCE = 1e-5
ENGINES = ["vllm", "tei"]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def standin(tiny_encoder: Encoder) -> Iterator[Standin]:
    with serving(tiny_encoder) as running:
        yield running


def patient(engine: str, url: str, **options: Any) -> Server:
    defaults = {"first_wait_s": 0.01, "attempts": 3, "timeout_s": 5.0}
    return Server(engine, url, **(defaults | options))  # type: ignore[arg-type]


def connect(encoder: Encoder, engine: str, url: str, **options: Any) -> ServedEncoder:
    return ServedEncoder(encoder.profile, patient(engine, url, **options), url)


def sequences(encoder: Encoder, count: int = 9) -> list[np.ndarray]:
    words = ["the", "city", "of", "berlin", "has", "a", "bridge", "and", "people", "that", "are", "with"]
    return [encoder.tokenize(" ".join(words[: 2 + i % 9])).ids for i in range(count)]


def assert_equal(served: ServedEncoder, local: Encoder, ids: list[np.ndarray]) -> None:
    found, expected = list(served.encode(ids)), list(local.encode(ids))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)


# --- equality


def is_coded(vectors: torch.Tensor) -> bool:
    return bool(torch.equal((vectors * 127).round() / 127, vectors))


def make(folder: Path, standin: Standin | None, engine: str, **options: Any) -> ContextualEmbedding:
    where = {} if standin is None else {"server": standin.url, "engine": engine}
    return ContextualEmbedding(
        model=str(folder), adapter=None, device="cpu", dtype="float32", **where, **options
    )


@pytest.mark.parametrize("strategy", ["late", "isolated", "blend"])
def test_vectors_equal_the_local_ones(tiny_folder: Path, standin: Standin, strategy: str) -> None:
    """Documents of several windows, token vectors kept in the same pass, and queries."""
    made = []
    for where in (standin, None):
        model = make(tiny_folder, where, "vllm", strategy=strategy)
        parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=40, chunk_overlap=0))
        document = Document(text=TEXT, metadata={"title": "The river"}, id_="d")
        nodes = model(parser([document]))
        chunks = [model.embedder.embed_query_tokens("Which river is in Berlin?")]
        if strategy != "isolated":
            chunks += [
                torch.from_numpy(kept).float() / 127 for kept in model.read_tokens(nodes[:2], members=nodes)
            ]
        made.append(
            (
                torch.tensor([node.embedding for node in nodes]),
                torch.tensor(model.get_query_embedding("Which river is in Berlin?")),
                torch.tensor(model.get_text_embedding("the river " * 100)),
                *map(torch.as_tensor, chunks),
            )
        )
    for served, local in zip(*made, strict=True):
        # Token vectors are kept as int8 where a level is 1/127: rounding may turn one.
        atol = TOLERANCE if served.abs().max() <= 1 and not is_coded(served) else 1.01 / 127
        torch.testing.assert_close(served, local, atol=atol, rtol=0)


@pytest.mark.parametrize("strategy", ["late", "isolated", "blend"])
def test_texts_within_one_window_equal_the_local_ones_over_tei(
    tiny_folder: Path, standin: Standin, strategy: str
) -> None:
    text = "Berlin is the capital city. It has a river, and a bridge."
    made = []
    for where in (standin, None):
        model = make(tiny_folder, where, "tei", strategy=strategy)
        parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=20, chunk_overlap=0))
        nodes = model(parser([Document(text=text, id_="d")]))
        made.append(torch.tensor([node.embedding for node in nodes] + [model.get_query_embedding("river?")]))
    torch.testing.assert_close(*made, atol=TOLERANCE, rtol=0)


def test_a_window_that_begins_within_a_word_is_refused_by_tei_and_read_by_vllm(
    tiny_encoder: Encoder, standin: Standin
) -> None:
    ids = tiny_encoder.tokenize("undertaking").ids
    assert len(ids) > 1
    with pytest.raises(UnsupportedModelError, match=r"begins within a word.*engine='vllm'"):
        list(connect(tiny_encoder, "tei", standin.url).encode([ids[1:]]))
    assert_equal(connect(tiny_encoder, "vllm", standin.url), tiny_encoder, [ids[1:]])


def test_states_as_lists_are_read_too(tiny_encoder: Encoder) -> None:
    with serving(tiny_encoder, habit="lists") as running:
        assert_equal(connect(tiny_encoder, "vllm", running.url), tiny_encoder, sequences(tiny_encoder))


# --- faults: right vectors or an error


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "faults", [["drop"], ["cut"], ["status 503"], ["status 429 0"], ["drop", "status 500"], ["status 408"]]
)
def test_what_passes_is_asked_again(tiny_encoder: Encoder, engine: str, faults: list[str]) -> None:
    with serving(tiny_encoder) as running:
        served = connect(tiny_encoder, engine, running.url, batch_sequences=2, requests_in_flight=1)
        running.faults = list(faults)
        assert_equal(served, tiny_encoder, sequences(tiny_encoder))
        assert running.faults == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("nan", NonFiniteError, "NaN or infinite"),
        ("row", EncoderAnswerError, "cuts texts"),
        ("dim", EncoderAnswerError, "."),
        ("short", EncoderAnswerError, "was cut"),
        ("garbage", EncoderAnswerError, "no JSON"),
    ],
)
def test_wrong_answers_are_errors(
    tiny_encoder: Encoder, engine: str, fault: str, error: type[Exception], message: str
) -> None:
    with serving(tiny_encoder) as running:
        served = connect(tiny_encoder, engine, running.url)
        running.faults = [fault] * 3
        with pytest.raises(error, match=message):
            list(served.encode(sequences(tiny_encoder)))


def test_answers_out_of_order_are_put_in_order_and_doubled_ones_refused(tiny_encoder: Encoder) -> None:
    with serving(tiny_encoder) as running:
        served = connect(tiny_encoder, "vllm", running.url)
        running.faults = ["reorder"]
        assert_equal(served, tiny_encoder, sequences(tiny_encoder))
        running.faults = ["twice"]
        with pytest.raises(EncoderAnswerError, match="each of them once"):
            list(served.encode(sequences(tiny_encoder)))


def test_a_server_that_stays_away_is_named(tiny_encoder: Encoder) -> None:
    with serving(tiny_encoder) as running:
        served = connect(tiny_encoder, "vllm", running.url, timeout_s=0.3)
        for faults, message in (
            (["drop"] * 3, r"does not answer \(3 attempts\)"),
            (["delay"] * 3, "does not answer .*ReadTimeout"),
            (["status 503"] * 3, "answered 503"),
            (["status 429 999"], "asking to wait 999 s"),
        ):
            running.faults = list(faults)
            with pytest.raises(EncoderUnavailableError, match=message):
                list(served.encode(sequences(tiny_encoder, 1)))
            assert running.faults == []
    with pytest.raises(EncoderUnavailableError, match="does not answer"):
        connect(tiny_encoder, "vllm", running.url)


def test_requests_in_flight_are_bounded_and_nothing_is_read_far_ahead(tiny_encoder: Encoder) -> None:
    taken = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal taken
        for ids in sequences(tiny_encoder, 60):
            taken += 1
            yield ids

    with serving(tiny_encoder, habit="slow") as running:
        served = connect(tiny_encoder, "vllm", running.url, batch_sequences=2, requests_in_flight=3)
        states = served.encode(stream())
        next(states)
        assert taken <= 2 * 3 + 1
        assert len(list(states)) == 59
        assert 1 < running.most_under_way <= 3
        assert max(len(body["input"]) for path, body in running.requests if path == "/pooling") == 2


# --- the probe


@pytest.mark.parametrize(
    ("habit", "error", "message"),
    [
        ("normalises", EncoderAnswerError, "normalises each token.*use_activation"),
        ("truncates", EncoderAnswerError, "cuts texts"),
        ("adds", EncoderAnswerError, "adds special tokens"),
        ("narrow", EncoderAnswerError, "matrix of 32 columns|another model"),
        ("pools", EncoderAnswerError, "cuts texts"),
        ("cut base64", EncoderAnswerError, "answer was cut"),
        ("short", InputError, "--max-model-len|lengths it was started"),
        ("coarse", EncoderAnswerError, "dtype='float16'"),
    ],
)
def test_the_probe_finds_out(tiny_encoder: Encoder, habit: str, error: type[Exception], message: str) -> None:
    with serving(tiny_encoder, habit=habit) as running:
        served = connect(tiny_encoder, "vllm", running.url)
        with pytest.raises(error, match=message):
            probe(served, tiny_encoder)


def test_the_probe_finds_out_another_model_and_another_tokenizer(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    from rag_embed.loading import load_encoder
    from tests.checkpoints import tiny_bert

    other = load_encoder(tiny_bert(tmp_path / "other", seed=1), device="cpu", dtype="float32")
    with serving(other) as running, pytest.raises(EncoderAnswerError, match="another model"):
        probe(connect(tiny_encoder, "vllm", running.url), tiny_encoder)
    other_tokenizer = serving(tiny_encoder, habit="other tokenizer")
    with other_tokenizer as running, pytest.raises(UnsupportedModelError, match="differ from ours"):
        probe(connect(tiny_encoder, "tei", running.url), tiny_encoder)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_probe_lets_the_same_weights_pass(tiny_encoder: Encoder, standin: Standin, engine: str) -> None:
    assert probe(connect(tiny_encoder, engine, standin.url), tiny_encoder) < TOLERANCE


def test_it_runs_when_an_embedding_model_connects(tiny_folder: Path, tiny_encoder: Encoder) -> None:
    with serving(tiny_encoder, habit="normalises") as running:
        model = make(tiny_folder, running, "vllm", timeout_s=5)
        with pytest.raises(EncoderAnswerError, match="normalises"):
            model.get_query_embedding("river?")


# --- adapters: two servers


def test_windows_ask_the_server_of_merged_weights(minilm: Encoder, tmp_path: Path) -> None:
    """The exported folders give what is served; weights that are exchanged are found out."""
    from rag_embed.export import export_checkpoints
    from rag_embed.loading import load_encoder
    from rag_embed.recipe import Recipe

    written = export_checkpoints(Recipe(engine="vllm"), tmp_path / "served")
    assert written.context is not None
    base, context = (
        load_encoder(folder, device="cpu", dtype="float32") for folder in (written.base, written.context)
    )
    local = ContextualEmbedding(device="cpu", dtype="float32", adapter="minilm-context")
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=40, chunk_overlap=0))
    document = Document(text=TEXT[:600], id_="d")
    with serving(base) as one, serving(context) as two:
        where: dict[str, Any] = {"engine": "vllm", "device": "cpu", "dtype": "float32"}
        served = ContextualEmbedding(server=one.url, context_server=two.url, **where)
        made = [
            torch.tensor([node.embedding for node in model(parser([document]))]) for model in (served, local)
        ]
        torch.testing.assert_close(*made, atol=TOLERANCE, rtol=0)
        exchanged = ContextualEmbedding(server=two.url, context_server=one.url, **where)
        with pytest.raises(EncoderAnswerError, match="with or without an adapter"):
            exchanged.get_query_embedding("river?")
        with pytest.raises(InputError, match=r"minilm-context.*context_server="):
            ContextualEmbedding(server=one.url, **where).get_query_embedding("river?")


# --- names, keys, arguments


def test_engine_and_precision_are_in_the_fingerprint(tiny_folder: Path) -> None:
    at = {"server": "http://127.0.0.1:9"}
    prints = [
        ContextualEmbedding(model=str(tiny_folder), **options).fingerprint()  # type: ignore[arg-type]
        for options in (
            {},
            {**at, "engine": "vllm"},
            {**at, "engine": "tei"},
            {**at, "engine": "vllm", "dtype": "bfloat16"},
        )
    ]
    assert len(set(prints)) == 4
    assert "-vllm/" in prints[1]
    assert "-bfloat16-vllm/" in prints[3]
    elsewhere = ContextualEmbedding(model=str(tiny_folder), server="http://other:8000", engine="vllm")
    assert elsewhere.fingerprint() == prints[1]


def test_the_key_is_sent_and_never_shown(
    tiny_folder: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tiny_encoder, key=KEY) as running:
        model = make(tiny_folder, running, "vllm", api_key=KEY)
        assert len(model.get_query_embedding("river?")) == 32
        shown = [
            repr(model),
            str(model),
            json.dumps(model.to_dict()),
            model.model_dump_json(),
            pickle.dumps(model).decode("latin-1"),
            repr(model.connection_options),
            repr(model.encoder),
        ]
        assert not [text for text in shown if KEY in text]
        copy = pickle.loads(pickle.dumps(model))
        with pytest.raises(EncoderUnavailableError, match=f"refused the credentials.*{KEY_VARIABLE}"):
            copy.get_query_embedding("river?")
        wrong = make(tiny_folder, running, "vllm", api_key=KEY[::-1])
        with pytest.raises(EncoderUnavailableError, match=r"401.*\*\*\*") as refused:
            wrong.get_query_embedding("river?")
        assert KEY[::-1] not in str(refused.value)
        monkeypatch.setenv(KEY_VARIABLE, KEY)
        assert copy.get_query_embedding("river?") == model.get_query_embedding("river?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"server": "http://h:1"}, "expected both or none"),
        ({"engine": "vllm"}, "expected both or none"),
        ({"context_server": "http://h:1"}, "without server"),
        ({"server": "http://me:hidden@h:1", "engine": "vllm"}, "carries a user or password"),
        ({"server": "h:1", "engine": "tei"}, "expected an address such as"),
        ({"server": "http://h:1", "engine": "vllm", "api_key": "hidden\nline"}, "printable ASCII"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        ContextualEmbedding(**arguments)
    assert "hidden" not in str(refused.value)


def test_prompts_of_special_tokens_and_unseen_tokens_are_refused(
    tiny_encoder: Encoder, standin: Standin
) -> None:
    served = connect(tiny_encoder, "tei", standin.url)
    ids = tiny_encoder.tokenize("river").ids
    with pytest.raises(UnsupportedModelError, match="takes tokens"):
        list(served.encode([ids], adds_special_tokens=False))
    with pytest.raises(UnsupportedModelError, match="do not see"):
        list(served.encode([ids], unseen_tokens=1))


def test_models_with_a_head_are_refused(tiny_encoder: Encoder, standin: Standin) -> None:
    head = MultiVector.__new__(MultiVector)  # nothing of it is looked at
    profile = replace(tiny_encoder.profile, multi_vector=head)
    with pytest.raises(UnsupportedModelError, match="by a head"):
        ServedEncoder(profile, patient("vllm", standin.url), standin.url)


# --- on the command line


def test_an_index_is_filled_and_searched_through_a_server(
    tmp_path: Path, tiny_folder: Path, tiny_encoder: Encoder
) -> None:
    """Passages and scores are those of an index that was made here; no other model asks it."""
    from rag_embed.cli.app import app

    write_documents(tmp_path / "docs")
    question = "a bridge of stone"

    def run(command: str, *words: object, store: str = "served") -> Result:
        place = ("--store", tmp_path / store, "--model", tiny_folder, "--adapter", "none")
        return CliRunner().invoke(app, [command, *map(str, (*words, *place))])

    def passages(shown: Result) -> list[dict[str, Any]]:
        assert shown.exit_code == 0, shown.stderr
        found: list[dict[str, Any]] = json.loads(shown.stdout)["passages"]
        return found

    with serving(tiny_encoder) as running:
        there = ("--server", running.url, "--engine", "vllm")
        filled = run("index", tmp_path / "docs", "--chunk-size", 48, *there)
        assert filled.exit_code == 0, filled.stderr
        asked = len(running.requests)
        assert asked > 0
        served = passages(run("search", question, "--json", *there))
        assert len(running.requests) > asked, "the question was read by the server too"
        assert run("index", tmp_path / "docs", "--chunk-size", 48, store="here").exit_code == 0
        local = passages(run("search", question, "--json", store="here"))
        mixed = run("search", question, *there, store="here")
        assert mixed.exit_code == 1
        assert "Leave out --server and --engine" in " ".join(mixed.stderr.split())
        new = ("--to-model", tiny_folder, "--adapter", "none", *there)
        moved = CliRunner().invoke(app, ["migrate", "--store", str(tmp_path / "here"), *map(str, new)])
        assert moved.exit_code == 0, moved.stderr
        assert passages(run("search", question, "--json", *there, store="here")) == served
    for one, other in zip(served, local, strict=True):
        for name in ("score", "retrieval_score"):
            assert one.pop(name) == pytest.approx(other.pop(name), abs=TOLERANCE)
        assert one.pop("stages") == pytest.approx(other.pop("stages"), abs=TOLERANCE)
    assert served == local
    elsewhere = run("search", question)
    assert elsewhere.exit_code == 1
    assert "Pass --engine vllm and --server" in " ".join(elsewhere.stderr.split())
    for words, reason in (
        (("--server", "http://127.0.0.1:9"), "--server and --engine belong together"),
        (("--context-server", "http://127.0.0.1:9"), "--context-server needs --server"),
    ):
        refused = run("search", question, *words)
        assert refused.exit_code == 2
        assert reason in " ".join(refused.stderr.replace("│", "").split())
