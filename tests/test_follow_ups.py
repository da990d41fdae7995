"""Follow-ups are completed from the conversation; what stands alone is searched as it was asked."""

from __future__ import annotations

import pytest

from rag_embed.chat.follow_ups import complete, leans
from rag_embed.chat.words import content_words, score_words

ASKED = "What happens to assert statements with -O?"
EARLIER = [(ASKED, ASKED)]


@pytest.mark.parametrize(
    "question",
    [
        "And what about __debug__?",
        "How about classes?",
        "Why?",
        "And when?",
        "the message?",
        "and in Python 2?",
        "Can they be nested?",
        "When is it evaluated?",
        "What does that mean?",
        "Who wrote it?",
    ],
)
def test_a_follow_up_takes_the_subject_of_the_conversation(question: str) -> None:
    assert complete(question, EARLIER) == f"assert statements -O: {question}"
    assert complete(question, []) == question


@pytest.mark.parametrize(
    "question",
    [
        "What is a lambda?",
        "What is the walrus operator?",
        "How is an f-string nested?",
        "So how does yield from handle exceptions?",
        "How do I import a module that has a dash in it?",
        "Is it possible to delete a name?",
        "When does a generator free its frame?",
        "lambda",
        "import statement",
        "Which functions return this value?",
    ],
)
def test_a_new_question_is_not_polluted(question: str) -> None:
    assert complete(question, EARLIER) == question


def test_a_chain_keeps_the_subject_and_the_last_question_and_does_not_grow() -> None:
    earlier = list(EARLIER)
    for question in ("And what about __debug__?", "Where is it set?", "Why?"):
        earlier.append((question, complete(question, earlier)))
    assert earlier[2][1] == "assert statements -O __debug__: Where is it set?"
    assert earlier[3][1] == "assert statements -O set: Why?"
    assert complete("What is a lambda?", earlier) == "What is a lambda?"
    earlier.append(("What is a lambda?", "What is a lambda?"))
    assert complete("Can it have a default?", earlier) == "lambda: Can it have a default?"


def test_words_that_the_follow_up_has_are_not_said_twice() -> None:
    assert complete("And what about assert?", EARLIER) == "statements -O: And what about assert?"
    assert not leans(ASKED)


def test_content_words_stay_as_they_are_written() -> None:
    assert content_words("What does the f-string's -O do, and __debug__?") == [
        "f-string's",
        "-O",
        "__debug__",
    ]


def test_shared_words_are_weighed_by_rarity_and_options_count() -> None:
    texts = ["Run it with -O.", "Run it with care.", "A statement is run.", "Statements are kept."]
    scores = score_words("What do statements do with -O?", texts)
    assert scores[0] > scores[2] > 0  # "-O" stands in one of them, "statement" in two
    assert scores[3] > 0  # the plural is the same word
    assert scores[1] == 0
    assert score_words("What is it?", texts).tolist() == [0, 0, 0, 0]
