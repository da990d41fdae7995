"""Filters of training pairs, with the real encoder and pairs that are wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rag_embed import CharSpan, load_encoder
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.filters import drop_foreign, drop_inconsistent

FACTS = {
    "lighthouse": ("The lamp burns paraffin and is lit at dusk.", "What does the lamp burn?"),
    "bakery": ("Rye bread is baked before four in the morning.", "When is rye bread baked?"),
    "harbour": ("Fishing boats pay no fee for the first night.", "What do fishing boats pay?"),
    "school": ("Pupils learn the violin from their second year on.", "When do pupils learn the violin?"),
    "museum": ("The oldest painting shows a market in the rain.", "What does the oldest painting show?"),
    "garden": ("Roses are cut back in February, never in autumn.", "When are roses cut back?"),
}


def make_documents() -> list[TrainingDocument]:
    return [
        TrainingDocument(name, fact, (CharSpan(0, len(fact)),), ((question, 0),), f"title: {name}\n\n")
        for name, (fact, question) in FACTS.items()
    ]


def test_right_pairs_stay_and_shuffled_ones_go() -> None:
    documents, encoder = make_documents(), load_encoder()
    right = drop_inconsistent(documents, encoder, top_k=1)
    assert (right.kept, right.dropped) == (len(documents), 0)
    questions = [doc.pairs[0][0] for doc in documents]
    shuffled = [
        replace(doc, pairs=((questions[(row + 1) % len(questions)], 0),)) for row, doc in enumerate(documents)
    ]
    wrong = drop_inconsistent(shuffled, encoder, top_k=1)
    assert (wrong.kept, wrong.documents) == (0, [])


def test_ranks_are_those_of_a_loop() -> None:
    documents, encoder = make_documents(), load_encoder()
    questions = [doc.pairs[0][0] for doc in documents]
    rotated = [replace(d, pairs=((questions[row - 1], 0),)) for row, d in enumerate(documents)]
    from rag_embed import embed_isolated

    chunks = embed_isolated(encoder, [doc.head + doc.text for doc in documents]).numpy()
    asked = embed_isolated(encoder, questions).numpy()
    for top_k in (2, 3, 5):
        expected = []
        for row, doc in enumerate(rotated):
            order = np.argsort(-(chunks @ asked[row - 1]))
            if row in order[:top_k]:
                expected.append(doc.doc_id)
        found = drop_inconsistent(rotated, encoder, top_k=top_k)
        assert [doc.doc_id for doc in found.documents] == expected


def test_local_questions_compete_inside_their_document_only() -> None:
    encoder = load_encoder()
    facts = [fact for fact, _ in FACTS.values()]
    text, spans = "", []
    for fact in facts[:2]:
        spans.append(CharSpan(len(text), len(text) + len(fact)))
        text += fact + " "
    document = TrainingDocument("own", text, tuple(spans), (("What does the lamp burn?", 0),), "", "m", True)
    rival = TrainingDocument("rival", facts[0], (CharSpan(0, len(facts[0])),), (("Lamp?", 0),), "", "m", True)
    assert drop_inconsistent([document, rival], encoder, top_k=1).dropped == 0
    assert (
        drop_inconsistent(
            [replace(document, pairs=(("When is rye bread baked?", 0),))], encoder, top_k=1
        ).kept
        == 0
    )


@pytest.mark.parametrize("is_question", [True, False])
def test_foreign_texts_go(is_question: bool) -> None:
    documents = make_documents()
    german = "Wann werden die Rosen im Garten zurückgeschnitten, und warum niemals im Herbst?"
    first = documents[0]
    if is_question:
        documents[0] = replace(first, pairs=((german, 0),))
    else:
        documents[0] = replace(first, text=german, spans=(CharSpan(0, len(german)),))
    found = drop_foreign(documents)
    assert (found.kept, found.dropped) == (len(documents) - 1, 1)
    assert [doc.doc_id for doc in found.documents] == [doc.doc_id for doc in documents[1:]]
    assert drop_foreign(documents, language="de", confidence=0.99).kept >= 1
