"""The command line on a small folder, with the real encoder and an embedded store: numbers, no stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("typer")
from llama_index.core.llms import CompletionResponse, LLMMetadata, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from typer.testing import CliRunner, Result

from rag_embed import ContextualEmbedding, QdrantChunkStore
from rag_embed.adapter import shipped_adapters
from rag_embed.chat.fitting import count_tokens
from rag_embed.cli import main
from rag_embed.cli.app import app

CAFE = """# Harbour café

The café roasts its own beans. It opens at seven in the morning and closes at six in the evening, except on
Sundays. There is room for forty guests inside and for twenty on the terrace.

# Owner

She learned the trade in Trieste. Her beans come from three farms in Ethiopia, which she visits every spring.
"""
FERRY = """# Ferry

The ferry leaves the pier every twenty minutes. Bicycles {travel} free of charge [always], dogs pay half.

# Captain

He comes from Bergen. Before he came to the lake he sailed to Iceland and to the Faroe Islands for ten years.
"""
TRAM = "Trams run all night on Fridays. A ticket costs three euros."
CHUNKING = ("--chunk-size", "56")

Run = Callable[..., Result]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    write(folder, {"cafe.md": CAFE, "ferry.md": FERRY, "more/tram.txt": TRAM})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run_command(*arguments: object, **options: Any) -> Result:
        place = [] if arguments[0] == "demo" else ["--store", tmp_path / "store"]
        return CliRunner().invoke(app, [str(argument) for argument in (*arguments, *place)], **options)

    return run_command


@pytest.fixture
def indexed(run: Run, docs: Path) -> Path:
    succeed(run("index", docs, *CHUNKING))
    return docs


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def succeed(result: Result) -> Any:
    """Check that a command worked; return its JSON, if it wrote any."""
    assert result.exit_code == 0, f"{result.stderr}\n{result.exception!r}"
    return json.loads(result.stdout) if result.stdout.startswith("{") else None


def token_count() -> int:
    model = ContextualEmbedding()
    return model.encoder.token_count + model.context_encoder.token_count


def content(store: Path, collection: str = "documents") -> dict[str, tuple[Any, ...]]:
    """All that a collection holds, by node id."""
    with QdrantChunkStore(collection, path=store) as chunk_store:
        return {
            node.node_id: (node.ref_doc_id, node.get_content(), node.metadata, node.embedding)
            for node in chunk_store.get_nodes()
        }


PROMPTS: list[str] = []


class SmallLLM(MockLLM):
    """Answers "yes" and reads little; remembers what it was given."""

    window: int = 300
    answer: str = "yes [1]"

    def __init__(self, window: int = 300, answer: str = "yes [1]") -> None:
        super().__init__()
        self.window, self.answer = window, answer

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.window, num_output=16)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        PROMPTS.append(prompt)
        if "fail" in prompt:
            raise ConnectionError("no route to it")
        return CompletionResponse(text=self.answer)


SMALL = ("--llm", f"{__name__}:SmallLLM")


# --- index


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from rag_embed.cli.app import app\n"
        "try: app(['index', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'llama_index.core', 'qdrant_client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "rag_embed.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "pip install 'rag-embed[cli]'" in capsys.readouterr().err


def test_a_second_run_embeds_nothing(run: Run, docs: Path, tmp_path: Path) -> None:
    first = succeed(run("index", docs, *CHUNKING, "--json"))
    (source,) = first["sources"]
    assert source["added"] == ["docs/cafe.md", "docs/ferry.md", "docs/more/tram.txt"]
    assert source["embedded"] == source["chunks"] == first["count"] == 5
    before, tokens = content(tmp_path / "store"), token_count()

    (again,) = succeed(run("index", docs, *CHUNKING, "--json"))["sources"]
    assert (again["unchanged"], again["embedded"]) == (3, 0)
    assert token_count() == tokens
    assert content(tmp_path / "store") == before

    moved = tmp_path / "elsewhere" / "docs"
    moved.parent.mkdir()
    docs.rename(moved)
    for path in moved.rglob("*.*"):
        os.utime(path, (0, 0))
    result = run("index", moved, *CHUNKING)
    assert "nothing was embedded" in result.stderr
    assert token_count() == tokens


def test_one_changed_paragraph_embeds_its_document_alone(run: Run, indexed: Path, tmp_path: Path) -> None:
    before = content(tmp_path / "store")
    write(indexed, {"cafe.md": CAFE.replace("seven", "eight")})
    tokens = token_count()
    (source,) = succeed(run("index", indexed, *CHUNKING, "--json"))["sources"]
    spent = token_count() - tokens
    assert (source["added"], source["changed"], source["removed"]) == ([], ["docs/cafe.md"], [])
    assert source["embedded"] == 2
    after = content(tmp_path / "store")
    assert len(after) == len(before)
    assert {i: v for i, v in after.items() if v[0] != "docs/cafe.md"} == {
        i: v for i, v in before.items() if v[0] != "docs/cafe.md"
    }
    cafe = [value for value in after.values() if value[0] == "docs/cafe.md"]
    assert any("eight" in text for _, text, _, _ in cafe)
    assert not any("seven" in text for _, text, _, _ in cafe)

    write(tmp_path / "alone" / "docs", {"cafe.md": CAFE.replace("seven", "eight")})
    tokens = token_count()
    succeed(run("index", tmp_path / "alone" / "docs", *CHUNKING, "--collection", "alone"))
    assert token_count() - tokens == spent


def test_deleted_files_are_forgotten_in_their_own_folder_only(
    run: Run, indexed: Path, tmp_path: Path
) -> None:
    write(tmp_path / "other", {"note.txt": "The lighthouse is open on Mondays."})
    succeed(run("index", tmp_path / "other", *CHUNKING))
    (indexed / "ferry.md").unlink()
    (source,) = succeed(run("index", indexed, *CHUNKING, "--json"))["sources"]
    assert source["removed"] == ["docs/ferry.md"]
    kept = {value[0] for value in content(tmp_path / "store").values()}
    assert kept == {"docs/cafe.md", "docs/more/tram.txt", "other/note.txt"}


def test_other_chunks_make_other_points_and_no_orphans(run: Run, indexed: Path, tmp_path: Path) -> None:
    (source,) = succeed(run("index", indexed, "--json"))["sources"]
    assert source["changed"] == ["docs/cafe.md", "docs/ferry.md"]  # the tram fits into one chunk either way
    assert len(content(tmp_path / "store")) == source["chunks"] == 3


def test_unreadable_files_are_named_and_hidden_ones_and_the_store_left_out(run: Run, docs: Path) -> None:
    (docs / "picture.xyz").write_bytes(b"\0\1\2")
    write(docs, {".secret": "no", ".git/config": "no", "empty.txt": ""})
    arguments = ("index", docs, *CHUNKING, "--json", "--store", docs / "index")
    for _ in range(2):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        (source,) = succeed(result)["sources"]
    assert list(source["skipped"]) == ["docs/picture.xyz"]
    assert "skipped docs/picture.xyz" in result.stderr
    assert source["empty"] == ["docs/empty.txt"]
    assert "without text docs/empty.txt" in result.stderr
    assert source["unchanged"] == 3


def test_another_model_is_refused_and_rebuild_obeys(run: Run, indexed: Path, tmp_path: Path) -> None:
    before = content(tmp_path / "store")
    own, other = (ContextualEmbedding(strategy=name).fingerprint() for name in ("late", "isolated"))
    result = run("index", indexed, *CHUNKING, "--strategy", "isolated")
    assert result.exit_code == 1
    for part in (own, other, "--rebuild"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert content(tmp_path / "store") == before
    assert run("search", "café", "--strategy", "isolated").exit_code == 1
    succeed(run("index", indexed, *CHUNKING, "--strategy", "isolated", "--rebuild"))
    assert succeed(run("info", "--json"))["fingerprint"] == other


def test_a_blend_is_recalled_with_its_weight(run: Run, docs: Path) -> None:
    succeed(run("index", docs, *CHUNKING, "--no-words", "--alpha", "0.3"))
    assert len(succeed(run("search", "café", "--json"))["passages"]) == 5
    (source,) = succeed(run("index", docs, *CHUNKING, "--json"))["sources"]
    assert source["embedded"] == 0


def test_a_share_of_context_makes_a_blend_beside_words_too(run: Run, docs: Path) -> None:
    succeed(run("index", docs, *CHUNKING, "--alpha", "0.3"))
    facts = succeed(run("info", "--json"))
    assert facts["fingerprint"] == ContextualEmbedding(strategy="blend", alpha=0.3).fingerprint()
    assert facts["words"] == "english"


def test_a_precision_that_was_asked_for_is_recalled(tiny_folder: Path) -> None:
    """An index made in bfloat16 says so, and is asked in bfloat16 on every machine."""
    from rag_embed.indexes.opening import ModelOptions

    made = ContextualEmbedding(model=str(tiny_folder), dtype="bfloat16", strategy="late")
    assert "/late-bfloat16/" in made.fingerprint()
    schema = SimpleNamespace(collection_name="docs", fingerprint=made.fingerprint())
    recalled = ModelOptions(model=str(tiny_folder)).recall(schema)
    assert recalled.dtype == "bfloat16"
    assert recalled.fingerprint() == made.fingerprint()


def test_an_adapter_is_recalled_or_its_absence(run: Run, docs: Path) -> None:
    shipped = next(iter(shipped_adapters()))
    for choice, words in (("none", "--adapter none"), (shipped, f"--adapter {shipped}")):
        succeed(run("index", docs, *CHUNKING, *words.split(), "--collection", choice))
        facts = succeed(run("info", "--collection", choice, "--json"))
        assert (f"+{shipped}@" in facts["fingerprint"]) == (choice == shipped)
        found = succeed(run("search", "café", "--collection", choice, "--json"))
        assert len(found["passages"]) == 5


KILLER = """
import os, signal
from rag_embed import QdrantChunkStore
replace, calls = QdrantChunkStore.replace_document, []
def replace_or_die(self, ref_doc_id, nodes):
    calls.append(ref_doc_id)
    if len(calls) == 2:
        self.add(nodes[:1])
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, ref_doc_id, nodes)
QdrantChunkStore.replace_document = replace_or_die
from rag_embed.cli import main
main()
"""


def test_a_killed_run_and_another_make_the_same_collection(run: Run, indexed: Path, tmp_path: Path) -> None:
    before = content(tmp_path / "store")
    write(indexed, {"cafe.md": CAFE.replace("seven", "eight"), "ferry.md": FERRY.replace("twenty", "thirty")})
    write(indexed, {"new.txt": "The museum shows boats."})
    command = [sys.executable, "-c", KILLER, "index", str(indexed), *CHUNKING]
    died = subprocess.run([*command, "--store", str(tmp_path / "store")], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    torn = content(tmp_path / "store")
    texts = [text for document, text, _, _ in torn.values() if document == "docs/ferry.md"]
    assert len(texts) == 3  # two old chunks and a new one
    assert not any(document == "docs/new.txt" for document, *_ in torn.values())
    assert torn.keys() - before.keys()

    (source,) = succeed(run("index", indexed, *CHUNKING, "--json"))["sources"]
    assert (source["changed"], source["added"]) == (["docs/ferry.md"], ["docs/new.txt"])
    assert source["unchanged"] == 2
    succeed(run("index", indexed, *CHUNKING, "--collection", "at_once"))
    assert content(tmp_path / "store") == content(tmp_path / "store", "at_once")


# --- search, info, exit codes


def test_passages_are_the_characters_that_they_name(run: Run, indexed: Path) -> None:
    for rerank in ("auto", "none", "late-interaction"):
        result = succeed(run("search", "When does the café open?", "-k", "2", "--rerank", rerank, "--json"))
        first, second = result["passages"]
        assert first["document"] == "docs/cafe.md"
        assert "opens at seven" in first["text"]
        assert first["score"] >= second["score"]
        for passage in (first, second):
            text = (indexed.parent / passage["document"]).read_text(encoding="utf-8")
            assert text[passage["start"] : passage["end"]] == passage["text"]
    shown = run("search", "When does the café open?", "-k", "1")
    assert f"docs/cafe.md:{first['start']}-{first['end']}" in shown.stdout
    assert "opens at seven" in shown.stdout


def test_filters_and_empty_results(run: Run, indexed: Path) -> None:
    only = succeed(run("search", "café", "--filter", "file_name=ferry.md", "--json"))["passages"]
    assert {passage["document"] for passage in only} == {"docs/ferry.md"}
    nothing = run("search", "café", "--filter", "file_name=none", "--json")
    assert nothing.exit_code == 3
    assert json.loads(nothing.stdout)["passages"] == []
    assert run("search", "café", "--filter", "file_name").exit_code == 2
    assert run("search", "  ").exit_code == 1


def test_info_says_what_is_there(run: Run, indexed: Path, tmp_path: Path) -> None:
    facts = succeed(run("info", "--json"))
    assert facts["count"] == 5
    assert facts["dim"] == 384
    assert facts["model"] == "all-MiniLM-L6-v2"
    assert facts["adapter"] == next(iter(shipped_adapters()))
    assert facts["fingerprint"] == ContextualEmbedding(strategy="late").fingerprint()
    assert (facts["words"], facts["tokens"]) == ("english", None)
    assert str(tmp_path / "store") in facts["engine"]
    assert facts["precision"].startswith("auto (")
    assert "384" in run("info").stdout


def test_exit_codes(run: Run, docs: Path, tmp_path: Path) -> None:
    for command in (("info",), ("search", "x"), ("chat",)):
        result = run(*command)
        assert result.exit_code == 3
        assert "rag-embed index FOLDER" in result.stderr
    assert not (tmp_path / "store").exists()
    (tmp_path / "bare").mkdir()
    assert run("index", tmp_path / "bare").exit_code == 3
    assert run("index", tmp_path / "missing").exit_code == 2
    assert run("index").exit_code == 2
    assert run("index", docs, docs).exit_code == 2
    assert run("index", docs, "--strategy", "late", "--alpha", "0.5").exit_code == 2
    assert run("index", docs, "--chunk-size", "20", "--chunk-overlap", "20").exit_code == 2
    assert run("index", docs, "--model", tmp_path / "no-model").exit_code == 1
    assert run("chat", "--llm", "json:loads").exit_code == 2
    assert run("chat", "--llm", "no.such.module:LLM").exit_code == 2
    two = ("--llm", "llama_index.core.llms:MockLLM", "--llm", "llama_index.core.llms:MockLLM(max_tokens=3)")
    assert run("chat", *two).exit_code == 2


# --- chat


def test_without_an_llm_sentences_are_quoted_with_their_place(run: Run, indexed: Path) -> None:
    questions = "Where did the owner of the café learn?\nand the beans?\n/reset\nand the beans?\n/quit\nno"
    result = run("chat", "--json", input=questions)
    assert result.exit_code == 0, result.stderr
    turns = [json.loads(line) for line in result.stdout.splitlines()]
    assert [turn["question"] for turn in turns] == [
        "Where did the owner of the café learn?",
        "and the beans?",
        "and the beans?",
    ]
    assert "She learned the trade in Trieste." in turns[0]["answer"]
    assert turns[1]["searched"] == "owner café learn: and the beans?"
    assert turns[2]["searched"] == "and the beans?"
    for turn in turns:
        assert turn["citations"]
        for number, place in enumerate(turn["citations"], start=1):
            text = (indexed.parent / place["document"]).read_text(encoding="utf-8")
            assert text[place["start"] : place["end"]] in turn["answer"]
            assert f"[{number}] {place['document']}:{place['start']}-{place['end']}" in turn["answer"]
    assert "Trieste" in run("chat", input="Where did the owner of the café learn?").stdout


def test_passages_are_fitted_to_the_context_and_what_is_left_out_is_said(run: Run, indexed: Path) -> None:
    PROMPTS.clear()
    question = "When does the café open?\n"
    result = run("chat", *SMALL, "--json", input=question)
    assert result.exit_code == 0, result.stderr
    turn = json.loads(result.stdout)
    assert turn["answer"] == "yes [1]"
    assert turn["left_out"]
    assert len(turn["citations"]) + len(turn["left_out"]) == 5
    (prompt,) = PROMPTS  # fitted: neither split nor refined
    assert count_tokens(prompt) + 16 <= 300
    for number, place in enumerate(turn["citations"], start=1):
        text = (indexed.parent / place["document"]).read_text(encoding="utf-8")
        assert f"[{number}] {place['document']}:{place['start']}-{place['end']}" in prompt
        assert text[place["start"] : place["end"]].strip() in prompt
    shown = run("chat", *SMALL, input=question)
    assert f"{len(turn['left_out'])} passages left out" in shown.stderr
    assert "yes [1]" in shown.stdout


def test_one_passage_too_long_for_the_context_is_cut_visibly(run: Run, indexed: Path) -> None:
    PROMPTS.clear()
    result = run("chat", *SMALL, "--llm-arg", "window=140", input="Café?\n")
    assert result.exit_code == 0, result.stderr
    assert "the first passage was cut" in result.stderr
    assert count_tokens(PROMPTS[0]) + 16 <= 140


def test_a_failed_question_is_an_error_and_not_the_end(run: Run, indexed: Path) -> None:
    lines = "word " * 300 + "\nfail\nWhen does the café open?\n"
    result = run("chat", *SMALL, "--json", input=lines)
    assert result.exit_code == 1
    long, failed, short = (json.loads(line) for line in result.stdout.splitlines())
    assert "the LLM reads 300 tokens" in long["error"]
    assert failed["error"].startswith("SmallLLM gave no answer (ConnectionError: no route to it)")
    assert short["answer"] == "yes [1]"


def test_a_citation_that_is_made_up_is_said(run: Run, indexed: Path) -> None:
    arguments = (*SMALL, "--llm-arg", "answer=at seven [1, 9]")
    assert "the answer cites [9], which no passage has" in run("chat", *arguments, input="When?\n").stderr
    assert json.loads(run("chat", *arguments, "--json", input="When?\n").stdout)["unknown_numbers"] == [9]


def test_an_llm_remembers_the_conversation(run: Run, indexed: Path) -> None:
    PROMPTS.clear()
    lines = "When does the {café} open?\nAnd when does it close?\n"
    result = run("chat", *SMALL, "--llm-arg", "window=800", "--json", input=lines)
    assert result.exit_code == 0, result.stderr
    assert "When does the {café} open?" in PROMPTS[1]  # condensed with what was said before
    assert "When does the {café} open?" in PROMPTS[2]


# --- demo


def test_demo_compares_three_ways_and_embeds_once(run: Run, docs: Path, tmp_path: Path) -> None:
    arguments = ("demo", "--docs", docs, "--store", tmp_path / "demo", *CHUNKING)
    first = succeed(run(*arguments, "--query", "Where was the café's owner trained?", "--json"))
    assert first["embedded"] == {"isolated chunks": 5, "in context, with words": 5}
    (question,) = first["questions"]
    for way in ("isolated chunks", "chunks in context", "in context, with words"):
        assert len(question[way]) == 3
    tokens = token_count()
    second = run(*arguments, "--query", "Where was the café's owner trained?", env={"COLUMNS": "160"})
    assert second.exit_code == 0, second.stderr
    assert second.stderr.count("nothing was embedded") == 2
    assert "chunks in context" in second.stdout
    assert "docs/cafe.md" in second.stdout
    first_passage = question["in context, with words"][0]
    assert f"{first_passage['start']}-{first_passage['end']}" in second.stdout
    assert token_count() - tokens < 200  # the query, three times; the corpus has more
    own = succeed(run(*arguments, "--json"))
    assert [question["query"] for question in own["questions"]][:2] == ["Harbour café", "Ferry"]
