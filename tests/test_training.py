"""Training: losses against loops, gradients, resuming, and whether anything is learned."""

from __future__ import annotations

import io
import json
import math
import pickle
import random
import shutil
from collections import Counter
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rag_embed import CharSpan, ContextualEmbedding, load_encoder
from rag_embed.adapter import locate_adapter
from rag_embed.errors import InputError, NonFiniteError, UnsupportedModelError
from rag_embed.late_interaction import embed_query_tokens
from rag_embed.training.documents import TrainingDocument, WindowSampler, split_documents
from rag_embed.training.losses import BatchTokens, BatchVectors, LossOptions, contrastive_loss
from rag_embed.training.progress import Progress
from rag_embed.training.run_folder import STATE_FILE
from rag_embed.training.vectors import Target, embed_windows
from tests.checkpoints import tiny_bert

pytest.importorskip("peft", reason="needs the extra train")

from rag_embed.training.trainer import TrainingOptions, train_adapter

NAMES = ["berlin", "river", "bridge", "city", "people", "capital", "germany"]
SECTIONS = (
    "this is the river part with people",
    "that has the bridge part and people",
    "its are of the city",
)
OPTIONS = TrainingOptions(
    rank=4, steps=12, windows_per_step=6, window_tokens=48, head_tokens=12, check_every=4, learning_rate=1e-2
)


def make_document(number: int) -> TrainingDocument:
    """Sections that read the same in every document; only the head tells whose they are."""
    name = f"{NAMES[number % 7]} {NAMES[number // 7 % 7]}"
    text, spans = "", []
    for section in SECTIONS:
        spans.append(CharSpan(len(text), len(text) + len(section)))
        text += section + ". "
    pairs = tuple((f"{name} {section.split()[-2]}", index) for index, section in enumerate(SECTIONS))
    return TrainingDocument(f"doc{number}", text, tuple(spans), pairs, f"{name}: ", "toy")


DOCUMENTS = [make_document(number) for number in range(30)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("model"))


# --- windows ----------------------------------------------------------------------------------------


def test_a_window_holds_its_chunks_tokens(checkpoint: Path) -> None:
    encoder = load_encoder(checkpoint)
    sampler = WindowSampler(DOCUMENTS, encoder, window_tokens=32, head_tokens=12, windows_per_step=8)
    for step in range(5):
        for window in sampler.draw(step):
            assert len(window.ids) <= 32
            document = window.document
            for chunk, span in zip(window.chunks, window.token_spans, strict=True):
                char_span = document.spans[chunk]
                alone = encoder.tokenize(document.text[char_span.start : char_span.end]).ids
                assert window.ids[span.start : span.end].tolist() == alone[: len(span)].tolist()
            for question, gold in zip(window.questions, window.golds, strict=True):
                assert (question, window.chunks[gold]) in document.pairs


def test_windows_of_one_document_share_no_chunk(checkpoint: Path) -> None:
    """And come one after another, so that a document is a stretch of the step."""
    encoder = load_encoder(checkpoint)
    # A section has 6 to 8 tokens: a window holds one or two of a document's three.
    sampler = WindowSampler(
        DOCUMENTS, encoder, window_tokens=24, head_tokens=4, windows_per_step=7, windows_per_document=2
    )
    several = 0
    for step in range(10):
        windows = sampler.draw(step)
        assert len(windows) == 7
        doc_ids = [window.document.doc_id for window in windows]
        assert [key for key, _ in groupby(doc_ids)] == list(dict.fromkeys(doc_ids))
        for doc_id, count in Counter(doc_ids).items():
            chunks = [chunk for w in windows if w.document.doc_id == doc_id for chunk in w.chunks]
            assert count <= 2 and len(set(chunks)) == len(chunks)
            several += count - 1
    assert several > 10


def test_what_stands_in_another_window_of_the_document_is_a_wrong_answer(checkpoint: Path) -> None:
    """To the in-sequence term and not to that of other documents, whichever windows they are in."""
    encoder = load_encoder(checkpoint)
    sampler = WindowSampler(
        DOCUMENTS, encoder, window_tokens=24, head_tokens=4, windows_per_step=6, windows_per_document=3
    )
    windows = next(
        found
        for step in range(50)
        if len(found := sampler.draw(step)) > len({w.document.doc_id for w in found})
    )
    batch = embed_windows(Target(encoder, None, 0.0), encoder, windows)
    doc_ids = [window.document.doc_id for window in windows for _ in window.chunks]
    for one, doc_id in enumerate(doc_ids):
        for other, other_id in enumerate(doc_ids):
            assert (batch.documents[one] == batch.documents[other]) == (doc_id == other_id)
    terms, expected = contrastive_loss(batch, OPTIONS.loss), slow_loss(batch, OPTIONS.loss)
    for name in ("in_sequence", "in_batch", "document"):
        assert float(terms[name].detach()) == pytest.approx(expected[name], abs=1e-4), name


def test_a_step_is_drawn_by_seed_and_number_alone(checkpoint: Path) -> None:
    def draw(seed: int, steps: list[int]) -> list[list[tuple[str, tuple[str, ...]]]]:
        sampler = WindowSampler(
            DOCUMENTS,
            load_encoder(checkpoint),
            window_tokens=32,
            head_tokens=12,
            windows_per_step=5,
            seed=seed,
        )
        return [[(w.document.doc_id, w.questions) for w in sampler.draw(step)] for step in steps]

    forward, backward = draw(1, [0, 1, 2]), draw(1, [2, 1, 0])
    assert forward == backward[::-1]
    assert forward != draw(2, [0, 1, 2])
    assert forward[0] != forward[1]


def test_documents_are_split_whole_and_by_source() -> None:
    documents = DOCUMENTS + [replace(d, doc_id=d.doc_id + "b", source="other") for d in DOCUMENTS[:10]]
    train, held = split_documents(documents, held_out=0.2)
    assert {d.doc_id for d in train} | {d.doc_id for d in held} == {d.doc_id for d in documents}
    assert not {d.doc_id for d in train} & {d.doc_id for d in held}
    assert [sum(d.source == s for d in held) for s in ("toy", "other")] == [6, 2]


def test_doubled_ids_are_refused(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="1 ids stand for more than one training document, such as 'doc0'"):
        WindowSampler(
            [DOCUMENTS[0]] * 2,
            load_encoder(checkpoint),
            window_tokens=32,
            head_tokens=1,
            windows_per_step=1,
        )


# --- losses -----------------------------------------------------------------------------------------


def random_batch(seed: int, *, windows: int = 4, dim: int = 8) -> BatchVectors:
    generator = torch.Generator().manual_seed(seed)

    def unit(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=1)

    owners = torch.tensor([w for w in range(windows) for _ in range(w + 1)])
    golds = torch.tensor([0, 2, 3, 5, 9])
    is_rival = owners[golds][:, None] != owners[None, :]
    return BatchVectors(unit(5), unit(len(owners)), golds, unit(3), torch.tensor([0, 4, 8]), owners, is_rival)


def slow_loss(batch: BatchVectors, options: LossOptions) -> dict[str, float]:
    """The terms, written with loops over queries and chunks."""
    queries, chunks = batch.queries.tolist(), batch.chunks.tolist()

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def info_nce(query: list[float], right: list[float], wrong: list[list[float]]) -> float:
        scores = [options.scale * dot(query, vector) for vector in (right, *wrong)]
        return math.log(sum(math.exp(score - scores[0]) for score in scores))

    sequence, across, document = [], [], []
    means = []
    for window in range(int(batch.documents.max()) + 1):
        members = [c for c, owner in zip(chunks, batch.documents.tolist(), strict=True) if owner == window]
        total = [sum(values) for values in zip(*members, strict=True)]
        length = math.sqrt(dot(total, total))
        means.append([value / length for value in total])
    for row, (query, gold) in enumerate(zip(queries, batch.golds.tolist(), strict=True)):
        own = int(batch.documents[gold])
        neighbours = [chunk for i, chunk in enumerate(chunks) if int(batch.documents[i]) == own and i != gold]
        rivals = [
            chunk
            for i, chunk in enumerate(chunks)
            if bool(batch.is_rival[row, i])
            and int(batch.documents[i]) != own
            and dot(query, chunk) <= dot(query, chunks[gold]) + options.margin
        ]
        sequence.append(info_nce(query, chunks[gold], neighbours))
        across.append(info_nce(query, chunks[gold], rivals))
        document.append(info_nce(query, means[own], [m for w, m in enumerate(means) if w != own]))
    hold = [1 - dot(chunks[i], v) for i, v in zip(batch.held.tolist(), batch.targets.tolist(), strict=True)]
    return {
        "in_sequence": float(np.mean(sequence)),
        "in_batch": float(np.mean(across)),
        "document": float(np.mean(document)),
        "hold": float(np.mean(hold)),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.1, 3.0])
def test_the_terms_are_those_of_loops(seed: int, margin: float) -> None:
    options = LossOptions(margin=margin, scale=7.0)
    batch = random_batch(seed)
    terms = contrastive_loss(batch, options)
    expected = slow_loss(batch, options)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, abs=1e-5), name
    chunk_level = options.in_sequence * expected["in_sequence"]
    chunk_level += (1 - options.in_sequence) * expected["in_batch"]
    total = (1 - options.document) * chunk_level + options.document * expected["document"]
    assert float(terms["total"]) == pytest.approx(total + options.hold * expected["hold"], abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_token_level_term_is_the_contrast_of_max_sim(seed: int) -> None:
    """By loops, and through vectors whose cosines are the MaxSim of the tokens."""
    batch, options = random_batch(seed), LossOptions(margin=0.05, scale=7.0)
    generator = torch.Generator().manual_seed(seed)
    query_sizes, chunk_sizes = [1, 3, 2, 4, 2], [2, 1, 3, 2, 1, 4, 1, 2, 2, 3]

    def unit(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)

    tokens = BatchTokens(unit(sum(query_sizes)), query_sizes, unit(sum(chunk_sizes)), chunk_sizes)
    queries, chunks = tokens.queries.split(query_sizes), tokens.chunks.split(chunk_sizes)
    max_sims = [
        [sum(max(float(q @ c) for c in chunk) for q in query) / len(query) for chunk in chunks]
        for query in queries
    ]
    # Query i is the i-th unit vector and a chunk's i-th number its MaxSim with it, so a dot product is one.
    as_vectors = replace(
        batch, queries=torch.eye(5), chunks=torch.tensor(max_sims).T, targets=torch.eye(5)[:3]
    )
    expected = slow_loss(as_vectors, options)
    terms = contrastive_loss(replace(batch, tokens=tokens), options)
    mixed = options.in_sequence * expected["in_sequence"] + (1 - options.in_sequence) * expected["in_batch"]
    assert float(terms["tokens"]) == pytest.approx(mixed, abs=1e-5)
    without = float(contrastive_loss(batch, options)["total"])
    assert float(terms["total"]) == pytest.approx(without + options.tokens * mixed, abs=1e-5)


def test_tokens_of_a_step_are_those_that_late_interaction_compares(checkpoint: Path) -> None:
    encoder = load_encoder(checkpoint)
    sampler = WindowSampler(DOCUMENTS, encoder, window_tokens=32, head_tokens=12, windows_per_step=3)
    windows = sampler.draw(0)
    batch = embed_windows(Target(encoder, None, 0.0), encoder, windows, with_tokens=True)
    assert batch.tokens is not None
    questions = [question for window in windows for question in window.questions]
    for question, own in zip(questions, batch.tokens.queries.split(batch.tokens.query_sizes), strict=True):
        torch.testing.assert_close(own, torch.from_numpy(embed_query_tokens(encoder, question)))
    own_means = [states.mean(dim=0) for states in batch.tokens.chunks.split(batch.tokens.chunk_sizes)]
    assert len(own_means) == len(batch.chunks) == sum(len(window.chunks) for window in windows)


def test_a_second_answer_to_the_same_question_is_no_wrong_answer() -> None:
    batch = random_batch(0)
    queries = batch.queries.clone()
    queries[1] = queries[0]
    doubled = replace(batch, queries=queries)
    moved = batch.chunks.clone()
    moved[2] = -moved[2]  # the answer of query 1, a rival of query 0 unless the two are one question
    options = LossOptions(margin=5.0, in_sequence=0.0, document=0.0, hold=0.0)

    def loss_of_first(chunks: torch.Tensor, asked: BatchVectors) -> float:
        alone = replace(asked, chunks=chunks)
        chunks = chunks.clone().requires_grad_()
        contrastive_loss(replace(alone, chunks=chunks), options)["in_batch"].backward()
        # Query 0's gradient on chunk 2 is the query itself, scaled; query 1's own gold adds to it otherwise.
        return float(chunks.grad[2].abs().sum())

    assert loss_of_first(batch.chunks, doubled) != loss_of_first(batch.chunks, batch)


# --- training ---------------------------------------------------------------------------------------


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return train_adapter(
        DOCUMENTS, tmp_path_factory.mktemp("adapters") / "toy", model=checkpoint, options=OPTIONS
    )


def test_the_same_seed_gives_the_same_adapter(tmp_path: Path, checkpoint: Path, trained: Path) -> None:
    again = train_adapter(DOCUMENTS, tmp_path / "again", model=checkpoint, options=OPTIONS)
    other = train_adapter(DOCUMENTS, tmp_path / "other", model=checkpoint, options=replace(OPTIONS, seed=1))
    first = weights_of(trained)
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights_of(again).items())
    assert not all(torch.equal(tensor, first[name]) for name, tensor in weights_of(other).items())


@pytest.mark.parametrize("stop_after", [2, 5, 11])
def test_an_interrupted_run_ends_like_an_uninterrupted(
    tmp_path: Path, checkpoint: Path, trained: Path, stop_after: int
) -> None:
    def interrupt(snapshot: object) -> None:
        if getattr(snapshot, "step") == stop_after:  # noqa: B009
            raise KeyboardInterrupt

    folder = tmp_path / "toy"
    with pytest.raises(KeyboardInterrupt):
        train_adapter(DOCUMENTS, folder, model=checkpoint, options=OPTIONS, on_step=interrupt)
    assert not (folder / "adapter_model.safetensors").exists()
    steps = []
    train_adapter(
        DOCUMENTS, folder, model=checkpoint, options=OPTIONS, on_step=lambda s: steps.append(s.step)
    )
    assert steps[0] == stop_after // OPTIONS.check_every * OPTIONS.check_every + 1
    expected = weights_of(trained)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(folder).items())
    curves = [json.loads((f / "card.json").read_text())["loss_curve"] for f in (folder, trained)]
    assert curves[0] == curves[1]
    assert sorted(f.name for f in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
    ]


def interrupted(folder: Path, checkpoint: Path, *, after: int = 6, documents: object = DOCUMENTS) -> Path:
    """Leave a run of which the state after the last check is kept; returns the file that holds it."""

    def interrupt(snapshot: object) -> None:
        if getattr(snapshot, "step") == after:  # noqa: B009
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(documents, folder, model=checkpoint, options=OPTIONS, on_step=interrupt)
    return folder / STATE_FILE


def test_another_run_in_the_folder_is_refused(tmp_path: Path, checkpoint: Path, trained: Path) -> None:
    for documents, options in ((DOCUMENTS[1:], OPTIONS), (DOCUMENTS, replace(OPTIONS, seed=5))):
        with pytest.raises(InputError, match="holds a finished adapter of other documents, options or model"):
            train_adapter(documents, trained, model=checkpoint, options=options)
    interrupted(tmp_path, checkpoint)
    with pytest.raises(InputError, match="holds an unfinished run of other documents, options or model"):
        train_adapter(DOCUMENTS[1:], tmp_path, model=checkpoint, options=OPTIONS)


def test_a_run_that_had_ended_is_left_as_it_is(tmp_path: Path, checkpoint: Path, trained: Path) -> None:
    """Killed between the adapter and its measurement, `train` finds the adapter and goes on to measure it."""
    folder = tmp_path / "toy"
    shutil.copytree(trained, folder)
    (folder / STATE_FILE).write_bytes(b"left by a kill between two renames")
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    steps: list[object] = []
    train_adapter(DOCUMENTS, folder, model=checkpoint, options=OPTIONS, on_step=steps.append)
    assert steps == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_aim_is_another_run(tmp_path: Path, checkpoint: Path, trained: Path) -> None:
    """The share of the blend that vectors are held near decides the weights as much as the data do."""
    start = locate_adapter(trained)
    options = replace(OPTIONS, steps=2, check_every=1)
    train_adapter(DOCUMENTS, tmp_path / "a", model=checkpoint, options=options, start=start, blend_alpha=0.5)
    with pytest.raises(InputError, match="holds a finished adapter of other"):
        train_adapter(
            DOCUMENTS, tmp_path / "a", model=checkpoint, options=options, start=start, blend_alpha=0.4
        )


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_unfinished_run_is_named_and_runs_no_code(
    tmp_path: Path, checkpoint: Path, trained: Path, seed: int
) -> None:
    state = interrupted(tmp_path / "toy", checkpoint)
    generator = random.Random(seed)
    content = bytearray(state.read_bytes())
    if seed == 0:
        content = bytearray()
    elif seed == 1:
        content = bytearray(pickle.dumps(Attack(tmp_path / "ran")))
    elif seed == 2:
        buffer = io.BytesIO()
        torch.save({"digest": Attack(tmp_path / "ran")}, buffer)
        content = bytearray(buffer.getvalue())
    elif seed < 6:
        content = content[: generator.randrange(len(content))]
    else:
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    state.write_bytes(content)
    with pytest.raises(InputError, match=f"{STATE_FILE} is damaged|unfinished run of other documents"):
        train_adapter(DOCUMENTS, tmp_path / "toy", model=checkpoint, options=OPTIONS)
    assert not (tmp_path / "ran").exists()
    state.unlink()
    train_adapter(DOCUMENTS, tmp_path / "toy", model=checkpoint, options=OPTIONS)
    expected = weights_of(trained)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(tmp_path / "toy").items())


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._path,)


def test_a_folder_that_cannot_be_written_costs_no_training(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("mine")
    steps: list[object] = []
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot be written .*; expected a folder for the adapter"):
            train_adapter(DOCUMENTS, folder, model=checkpoint, options=OPTIONS, on_step=steps.append)
    assert steps == [] and (tmp_path / "file").read_text() == "mine"


def test_a_held_out_loss_that_is_no_number_is_refused() -> None:
    progress = Progress()
    with pytest.raises(NonFiniteError, match="the held-out loss after step 1 is nan; expected a number"):
        progress.record({"total": 1.0}, float("nan"), {})


def test_a_damaged_adapter_to_start_from_is_named(tmp_path: Path, checkpoint: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "start")
    (tmp_path / "start" / "adapter_model.safetensors").write_bytes(b"short")
    start = locate_adapter(tmp_path / "start")
    with pytest.raises(UnsupportedModelError, match=r"adapter_model.safetensors cannot be read"):
        train_adapter(DOCUMENTS, tmp_path / "new", model=checkpoint, options=OPTIONS, start=start)


def test_it_learns_whose_section_it_is(tmp_path: Path, checkpoint: Path) -> None:
    """Sections read alike in all documents: isolated chunks cannot tell them apart, trained windows can."""
    options = replace(OPTIONS, steps=60, check_every=20, loss=LossOptions(hold=0.0))
    folder = train_adapter(DOCUMENTS, tmp_path / "toy", model=checkpoint, options=options)
    card = json.loads((folder / "card.json").read_text())
    checks = [held for _, _, held in card["loss_curve"] if held is not None]
    assert checks[-1] < 0.75 * card["loss_curve"][0][1]

    def reciprocal_rank(adapter: str | None) -> float:
        from rag_embed import embed_late

        model = ContextualEmbedding(model=str(checkpoint), adapter=adapter, strategy="late")
        chunks = torch.cat(
            [embed_late(model.context_encoder, d.text, d.spans, head=d.head) for d in DOCUMENTS]
        )
        questions = [q for d in DOCUMENTS for q, _ in d.pairs]
        scores = torch.stack([model.embed_query(q) for q in questions]) @ chunks.T
        ranks = 1 + (scores > scores.diagonal()[:, None]).sum(dim=1)
        return float((1 / ranks).mean())

    untrained, adapted = reciprocal_rank(None), reciprocal_rank(str(folder))
    assert adapted > 1.5 * untrained


def test_too_few_documents_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="1 documents with questions; expected at least 3"):
        train_adapter(DOCUMENTS[:1], tmp_path, model=checkpoint, options=OPTIONS)
