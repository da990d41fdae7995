"""Adapt to a corpus, with or without labels, and say by held-out documents whether it helped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_embed.errors import InputError
from rag_embed.evaluation import (
    Arm,
    EvalDocument,
    EvalSet,
    Evaluation,
    VectorCache,
    evaluate,
    make_proxy_queries,
)
from rag_embed.evaluation.arms import ISOLATED
from rag_embed.evaluation.bootstrap import detectable_effect, mean_interval
from rag_embed.evaluation.metrics import MAIN_MEASURE
from rag_embed.evaluation.sets import keep_documents
from rag_embed.evaluation.vectors import OnStep, be_silent
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.progress import Snapshot
from rag_embed.training.trainer import TrainingOptions, train_adapter

_TRAINING_QUERIES = 20_000
_HELD_OUT_QUERIES = 300
_LEAST_DOCUMENTS = 5


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What came of adapting.

    Attributes:
        folder: The adapter.
        held_out: Ids of the documents that were only asked.
        evaluation: Isolated chunks, the model as it was and the adapted one, on held-out documents.
        gain: nDCG@10 of the adapted model over the model as it was: mean, and its 95 % interval.
        is_recommended: Whether the whole interval is above zero, on questions of people. Proxy queries
            recommend nothing: on contracts they gained where people's questions did not.
        sentence: The same for people.
    """

    folder: Path
    held_out: tuple[str, ...]
    evaluation: Evaluation
    gain: tuple[float, float, float]
    is_recommended: bool
    sentence: str

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "adapter": str(self.folder),
            "gain": [round(value, 5) for value in self.gain],
            "is_recommended": self.is_recommended,
            "sentence": self.sentence,
            "evaluation": self.evaluation.as_json(),
        }


def choose_options(
    model: ContextualEmbedding, *, steps: int, learning_rate: float, seed: int
) -> TrainingOptions:
    """Say how a model is trained: in windows as it reads them, its loss checked four times.

    Args:
        model: What is adapted. An adapter that it has goes on with its own layers, rank and windows.
        steps: At most.
        learning_rate: Peak.
        seed: Of the first weights, the order and the split.
    """
    options = TrainingOptions(
        steps=steps, check_every=max(1, steps // 4), learning_rate=learning_rate, seed=seed
    )
    adapter, window_tokens = model.located_adapter, model.window_options.window_tokens
    if adapter is not None:
        return replace(
            options,
            rank=adapter.rank,
            shared_layers=adapter.shared_layers,
            window_tokens=adapter.window_tokens,
        )
    return options if window_tokens is None else replace(options, window_tokens=window_tokens)


def adapt(
    evalset: EvalSet,
    folder: Path,
    *,
    model: ContextualEmbedding,
    options: TrainingOptions,
    held_out: float = 0.25,
    on_step: Callable[[Snapshot], None] = lambda _: None,
    on_evaluate: OnStep = be_silent,
) -> Adaptation:
    """Train an adapter on some of the documents and measure it on the others.

    Args:
        evalset: Chunked documents. With queries, these are trained on and asked; without, sentences taken
            out of the chunks are (`rag_embed.evaluation.proxies`).
        folder: For the adapter; an interrupted run goes on there.
        model: What is adapted: training goes on from its adapter, if it has one.
        options: How it is trained.
        held_out: Share of the documents that are only asked.
        on_step: Told of training.
        on_evaluate: Told of the evaluation.

    Raises:
        InputError: There are too few documents, or the folder holds another run.
    """
    contextual = model if model.strategy != "isolated" else model.model_copy(update={"strategy": "blend"})
    trained_on, asked = _split(evalset, held_out, seed=options.seed)
    has_labels = bool(evalset.queries)
    if not has_labels:
        trained_on = make_proxy_queries(trained_on, _TRAINING_QUERIES, seed=options.seed)
        asked = make_proxy_queries(asked, _HELD_OUT_QUERIES, seed=options.seed + 1)
    train_adapter(
        _as_training_documents(trained_on),
        folder,
        model=contextual.model,
        options=options,
        start=contextual.located_adapter,
        card={"sources": [_describe(trained_on, has_labels)]},
        on_step=on_step,
    )
    blend: dict[str, Any] = {"strategy": contextual.strategy, "alpha": contextual.alpha}
    arms = [
        Arm(ISOLATED, {"strategy": "isolated", "adapter": None}, with_title=False),
        Arm("before", {**blend, "adapter": contextual.adapter}, with_title=asked.has_titles),
        Arm("after", {**blend, "adapter": str(folder)}, with_title=asked.has_titles),
    ]
    evaluation = evaluate(asked, arms, model=model, cache=VectorCache(None), on_step=on_evaluate)
    return _judge(folder, evaluation, asked, has_labels=has_labels)


def _split(evalset: EvalSet, held_out: float, *, seed: int) -> tuple[EvalSet, EvalSet]:
    """Whole documents, so that no text is trained on and asked about."""
    if len(evalset.documents) < _LEAST_DOCUMENTS:
        raise InputError(
            f"{len(evalset.documents)} documents in {evalset.name!r}; expected at least {_LEAST_DOCUMENTS}, "
            "of which some are held out to measure the gain. Split long files, or keep the default adapter"
        )
    order = np.random.default_rng(seed).permutation(len(evalset.documents))
    count = max(2, round(held_out * len(order)))
    held = {evalset.documents[int(index)].doc_id for index in order[:count]}

    others = [document.doc_id for document in evalset.documents if document.doc_id not in held]
    return keep_documents(evalset, others), keep_documents(evalset, held)


def _as_training_documents(evalset: EvalSet) -> list[TrainingDocument]:
    pairs: dict[str, list[tuple[str, int]]] = {}
    for query, golds in evalset.golds.items():
        for gold in golds:
            doc_id, _, chunk = gold.rpartition("#")
            pairs.setdefault(doc_id, []).append((evalset.queries[query], int(chunk)))
    return [
        TrainingDocument(
            document.doc_id,
            document.text,
            document.spans,
            tuple(pairs[document.doc_id]),
            _head(document) if evalset.has_titles else "",
            evalset.name,
            evalset.is_within_document,
        )
        for document in evalset.documents
        if document.doc_id in pairs
    ]


def _head(document: EvalDocument) -> str:
    """The title as LlamaIndex renders metadata in front of a chunk."""
    return f"{document.title_key}: {document.title}\n\n" if document.title else ""


def _describe(evalset: EvalSet, has_labels: bool) -> dict[str, object]:
    content = "queries of its own" if has_labels else "proxy queries: sentences taken out of the chunks"
    return {
        "name": evalset.name,
        "licence": "the user's own",
        "documents": len(evalset.documents),
        "questions": len(evalset.queries),
        "content": content,
    }


def _judge(folder: Path, evaluation: Evaluation, asked: EvalSet, *, has_labels: bool) -> Adaptation:
    before, after = (
        next(result for result in evaluation.results if result.arm.name == name)
        for name in ("before", "after")
    )
    chosen = evaluation.sliced[evaluation.main_slice]
    where = evaluation.main_slice
    differences = (after.scores[where][MAIN_MEASURE] - before.scores[where][MAIN_MEASURE])[chosen]
    gain = mean_interval(differences)
    is_recommended = has_labels and gain[1] > 0
    figures = f"{100 * gain[0]:+.1f} points of nDCG@10 [{100 * gain[1]:+.1f}, {100 * gain[2]:+.1f}]"
    kind = "queries" if has_labels else "proxy queries"
    basis = f"{len(differences)} {kind} on {len(asked.documents)} held-out documents"
    if is_recommended:
        sentence = f"Use the adapter: {figures} over the model as it was, on {basis}."
    elif gain[1] > 0:
        sentence = (
            f"Not known whether to use the adapter: {figures} over the model as it was, on {basis}, and what "
            "proxy queries gain people's questions may not. Ask some of your own with --queries; till then "
            "keep the model as it was."
        )
    elif gain[2] < 0:
        sentence = f"Do not use the adapter, it loses: {figures} against the model as it was, on {basis}."
    else:
        sentence = (
            f"Keep the model as it was: {figures} on {basis} is no gain that could be told from chance; "
            f"{100 * detectable_effect(differences):.1f} points could have been."
        )
    return Adaptation(
        folder, tuple(d.doc_id for d in asked.documents), evaluation, gain, is_recommended, sentence
    )
