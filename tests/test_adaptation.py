"""Adapting to a corpus: what is trained on, what is asked, and the advice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("peft", reason="needs the extra train")

from rag_embed import CharSpan, ContextualEmbedding
from rag_embed.cli.app import app
from rag_embed.errors import InputError
from rag_embed.evaluation import EvalDocument, EvalSet
from rag_embed.training.adaptation import _judge, adapt
from rag_embed.training.trainer import TrainingOptions
from tests.checkpoints import tiny_bert

WORDS = ["river", "bridge", "city", "people", "capital", "germany", "berlin", "this", "that", "with"]
OPTIONS = TrainingOptions(rank=2, steps=6, windows_per_step=4, window_tokens=64, head_tokens=8, check_every=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ContextualEmbedding:
    return ContextualEmbedding(model=str(tiny_bert(tmp_path_factory.mktemp("model"))), dtype="float32")


def make_document(number: int) -> EvalDocument:
    generator = np.random.default_rng(number)
    text, spans = "", []
    for _ in range(3):
        sentences = [" ".join(generator.choice(WORDS, 9)).capitalize() + "." for _ in range(4)]
        chunk = " ".join(sentences)
        spans.append(CharSpan(len(text), len(text) + len(chunk)))
        text += chunk + "\n\n"
    return EvalDocument(f"doc{number}", f"Report {number}", text, tuple(spans))


def make_set(count: int) -> EvalSet:
    return EvalSet("toy", tuple(make_document(number) for number in range(count)), {}, {}, has_titles=True)


def with_queries(evalset: EvalSet) -> EvalSet:
    """Every chunk's first sentence asks for it."""
    queries, golds = {}, {}
    for document in evalset.documents:
        for index, chunk in enumerate(document.chunks):
            name = f"{document.doc_id}-{index}"
            queries[name], golds[name] = chunk.split(".")[0], {f"{document.doc_id}#{index}": 1}
    return replace(evalset, queries=queries, golds=golds)


@pytest.mark.parametrize("is_labelled", [False, True])
def test_held_out_documents_are_asked_and_not_trained_on(
    tmp_path: Path, model: ContextualEmbedding, is_labelled: bool
) -> None:
    evalset = with_queries(make_set(12)) if is_labelled else make_set(12)
    adaptation = adapt(evalset, tmp_path / "adapter", model=model, options=OPTIONS)
    card = json.loads((tmp_path / "adapter" / "card.json").read_text())
    assert card["documents"]["train"] + card["documents"]["held_out"] == 9
    evaluation = adaptation.evaluation
    assert evaluation.counts["documents"] == 3
    assert [result.arm.name for result in evaluation.results] == ["isolated", "before", "after"]
    assert any("PROXIES" in warning for warning in evaluation.warnings) is not is_labelled
    before, after = (evaluation.results[row].scores[evaluation.main_slice]["nDCG@10"] for row in (1, 2))
    assert adaptation.gain[0] == pytest.approx(float((after - before).mean()))
    assert adaptation.gain[1] <= adaptation.gain[0] <= adaptation.gain[2]
    assert adaptation.is_recommended == (is_labelled and adaptation.gain[1] > 0)
    kind = "queries" if is_labelled else "proxy queries"
    assert f"{len(before)} {kind} on 3 held-out documents" in adaptation.sentence


def test_training_for_nothing_is_not_recommended(tmp_path: Path, model: ContextualEmbedding) -> None:
    options = replace(OPTIONS, learning_rate=1e-12)
    adaptation = adapt(make_set(12), tmp_path / "adapter", model=model, options=options)
    assert adaptation.gain[0] == pytest.approx(0, abs=1e-3)
    assert not adaptation.is_recommended
    assert adaptation.sentence.startswith("Keep the model as it was: ")


@pytest.mark.parametrize(
    ("is_labelled", "beginning"),
    [(True, "Use the adapter: "), (False, "Not known whether to use the adapter: ")],
)
def test_only_questions_of_people_recommend(
    tmp_path: Path, model: ContextualEmbedding, is_labelled: bool, beginning: str
) -> None:
    """The same gain, wholly above zero, by questions and by proxies."""
    evalset = with_queries(make_set(12)) if is_labelled else make_set(12)
    adaptation = adapt(evalset, tmp_path / "adapter", model=model, options=OPTIONS)
    results = {result.arm.name: result for result in adaptation.evaluation.results}
    for name, value in (("before", 0.25), ("after", 0.5)):
        results[name].scores[adaptation.evaluation.main_slice]["nDCG@10"][:] = value
    asked = replace(evalset, documents=evalset.documents[:3])
    judged = _judge(adaptation.folder, adaptation.evaluation, asked, has_labels=is_labelled)
    assert judged.gain == pytest.approx((0.25, 0.25, 0.25))
    assert judged.is_recommended is is_labelled
    assert judged.sentence.startswith(beginning)


def test_too_few_documents_are_refused(tmp_path: Path, model: ContextualEmbedding) -> None:
    with pytest.raises(InputError, match="4 documents in 'toy'; expected at least 5"):
        adapt(make_set(4), tmp_path / "adapter", model=model, options=OPTIONS)
    assert not (tmp_path / "adapter").exists()


def test_it_goes_on_from_the_models_adapter(tmp_path: Path, model: ContextualEmbedding) -> None:
    first = adapt(make_set(12), tmp_path / "first", model=model, options=OPTIONS)
    adapted = model.model_copy(update={"adapter": str(first.folder)})
    second = adapt(make_set(12), tmp_path / "second", model=adapted, options=OPTIONS)
    curves = [json.loads((f / "card.json").read_text())["loss_curve"] for f in (first.folder, second.folder)]
    card = json.loads((second.folder / "card.json").read_text())
    assert card["start"]["name"] == "first"
    assert curves[1][0][1] != curves[0][0][1]


def test_killed_after_training_it_goes_on_with_the_measurement(
    tmp_path: Path, model: ContextualEmbedding
) -> None:
    evalset = make_set(12)
    whole = adapt(evalset, tmp_path / "a" / "adapter", model=model, options=OPTIONS)
    steps: list[object] = []

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "b" / "adapter"
    with pytest.raises(KeyboardInterrupt):
        adapt(evalset, folder, model=model, options=OPTIONS, on_step=steps.append, on_evaluate=interrupt)
    assert len(steps) == OPTIONS.steps
    again = adapt(evalset, folder, model=model, options=OPTIONS, on_step=steps.append)
    assert len(steps) == OPTIONS.steps, "nothing is trained a second time"
    assert (again.gain, again.sentence) == (whole.gain, whole.sentence)
    for file in whole.folder.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match="holds a finished adapter of other documents, options or model"):
        adapt(make_set(13), folder, model=model, options=OPTIONS)


def test_the_command_adapts_to_what_can_be_read_and_names_the_rest(
    tmp_path: Path, model: ContextualEmbedding
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for document in make_set(8).documents:
        (docs / f"{document.doc_id}.md").write_text(document.text, encoding="utf-8")
    (docs / "print.ps").write_text("%!PS-Adobe-3.0 /Helvetica findfont", encoding="utf-8")
    words = ["train", "--docs", docs, "--model", model.model, "--out", tmp_path / "adapter", "--steps", 2]
    words += ["--chunk-size", 48, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 4, f"{result.stderr}\n{result.exception!r}"
    assert "not read docs/print.ps: " in result.stderr
    found = json.loads(result.stdout)
    assert found["adapter"] == str(tmp_path / "adapter")
    assert found["is_recommended"] is False  # there were no questions of people
    adapted = ContextualEmbedding(model=model.model, adapter=found["adapter"])
    assert adapted.fingerprint() != ContextualEmbedding(model=model.model, adapter=None).fingerprint()
