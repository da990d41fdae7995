"""Quotes: exact characters, the right sentence, and neighbours, with the real encoder."""

from __future__ import annotations

from pydoc_data.topics import topics

import pytest

from rag_embed import ContextualEmbedding, QdrantChunkStore
from rag_embed.chat.conversation import Conversation
from rag_embed.chat.quotes import find_regions, quote_best, quote_passages
from rag_embed.chat.searching import Searcher
from rag_embed.chat.sentences import split_sentences
from rag_embed.llamaindex.stored_document import StoredDocument
from tests.chats import CAFE, FERRY, TEXTS, open_searcher

ASSERT = """The "assert" statement
**********************

Assert statements are a convenient way to insert debugging assertions
into a program:

   assert_stmt ::= "assert" expression ["," expression]

These equivalences assume that "__debug__" and "AssertionError" refer
to the built-in variables with those names.  In the current
implementation, the built-in variable "__debug__" is "True" under
normal circumstances, "False" when optimization is requested (command
line option "-O").  The current code generator emits no code for an
assert statement when optimization is requested at compile time.
"""


def test_sentences_are_exact_and_none_goes_across_blocks() -> None:
    text = (
        "# Title\n\nDr. Smith, e.g., came at 3.5. He left:\n\n* one item\n* another one\n\n  x = 1\n\n***\n"
    )
    found = [text[span.start : span.end] for span in split_sentences(text)]
    assert found[-3:] == ["* one item", "* another one", "x = 1"]
    assert found[:-3] == ["Dr. Smith, e.g., came at 3.5.", "He left:"]
    assert [ASSERT[s.start : s.end] for s in split_sentences(ASSERT)][:1] == [
        "Assert statements are a convenient way to insert debugging assertions\ninto a program:"
    ]
    assert split_sentences(" \n\n ") == split_sentences("...") == []


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where does the captain come from?", "He comes from Bergen."),
        ("How often does the ferry leave?", "The ferry leaves the pier every twenty minutes."),
        ("What do dogs pay?", "Bicycles travel free of charge, dogs pay half."),
    ],
)
def test_the_sentence_that_answers_is_quoted_first(question: str, answer: str) -> None:
    searcher = open_searcher()
    turn = Conversation(searcher).ask(question)
    assert turn.error is None
    assert turn.citations[0].quote is not None
    assert turn.citations[0].quote.text == answer
    assert turn.answer.startswith(f"{answer}\n[1] ")
    for citation in turn.citations:
        assert citation.quote is not None
        text = TEXTS[citation.quote.document]
        assert text[citation.quote.start : citation.quote.end] == citation.quote.text
        assert f"[{citation.number}] {citation.place}" in turn.answer
    assert len({citation.place for citation in turn.citations}) == len(turn.citations) <= 3


def test_the_examples_that_the_vectors_of_sentences_got_wrong() -> None:
    """An introduction was quoted for the first, and a line of code for the second."""
    names = ("assert", "debugger", "raise", "lambda", "try")
    searcher = open_searcher({f"{name}.md": topics[name] for name in names}, chunk_size=256, top_k=8)
    conversation = Conversation(searcher)
    first = conversation.ask("What happens to assert statements with -O?")
    assert '"False" when optimization is requested (command\nline option "-O").' in first.answer
    assert "emits no code for an\nassert statement when optimization is requested" in first.answer
    second = conversation.ask("And what about __debug__?")
    assert second.searched == "assert statements -O: And what about __debug__?"
    assert second.citations[0].quote is not None
    assert 'variable "__debug__" is "True" under\nnormal circumstances' in second.citations[0].quote.text
    third = conversation.ask("What is a lambda expression?")
    assert third.searched is None
    assert {citation.passage.document for citation in third.citations} == {"lambda.md"}


def test_neighbours_of_a_passage_are_looked_at_and_no_sentence_twice() -> None:
    searcher = open_searcher()
    (passage,) = (p for p in searcher.search("the café's owner").passages if "Trieste" in p.text)
    hours = "It opens at seven in the morning and closes at six in the evening, except on\nSundays."
    assert hours not in passage.text
    model = searcher.embed_model
    best = quote_best(searcher.store, model, "When does the café open?", [passage], most=1)
    assert [quote.text for _, quote in best] == [hours]
    assert CAFE[best[0][1].start : best[0][1].end] == hours
    alone = find_regions(searcher.store, model, [passage], neighbours=0)
    texts = [alone[0].quote(span).text for span in alone[0].spans]
    assert hours not in texts
    regions = find_regions(searcher.store, model, searcher.search("the café").passages)
    places = [region.quote(span).place for region in regions for span in region.spans]
    assert len(places) == len(set(places))


def test_each_passage_gets_the_sentence_nearest_to_the_question() -> None:
    searcher = open_searcher()
    passages = searcher.search("Where does the captain come from?").passages
    quotes = quote_passages(
        searcher.store, searcher.embed_model, "Where does the captain come from?", passages
    )
    assert len(quotes) == len(passages)
    by_place = {p.place: quote for p, quote in zip(passages, quotes, strict=True)}
    (captain,) = (quote for place, quote in by_place.items() if "Bergen" in FERRY[slice(*_span(place))])
    assert captain is not None
    assert captain.text == "He comes from Bergen."
    assert quote_passages(searcher.store, searcher.embed_model, "What?", []) == []


def test_a_document_is_read_with_the_characters_that_passages_name() -> None:
    searcher = open_searcher()
    for passage in searcher.search("beans").passages:
        (stretch,) = StoredDocument.fetch(searcher.store, passage.document).read(passage.start, passage.end)
        assert stretch.text == passage.text == TEXTS[passage.document][passage.start : passage.end]


def test_a_document_of_which_a_part_is_missing_says_so_and_is_quoted_all_the_same() -> None:
    searcher = open_searcher()
    store = searcher.store
    gone = next(node for node in store.get_nodes() if "seven in the morning" in node.get_content())
    store.delete_nodes([gone.node_id])
    assert not StoredDocument.fetch(store, "cafe.md").is_whole
    turn = Conversation(searcher).ask("Where did the owner learn?")
    quote = turn.citations[0].quote
    assert quote is not None
    assert CAFE[quote.start : quote.end] == quote.text == "She learned the trade in Trieste."


def test_reasons_say_the_scores_of_the_stages() -> None:
    (first, *_) = open_searcher().search("When does the ferry leave?").passages
    reasons = " ".join(first.reasons)
    assert f"similarity {first.stages['meaning']:.3f}" in reasons
    assert f"BM25 {first.stages['words']:.2f}" in reasons
    assert f"Place 1 with score {first.score:.3f}" in reasons


def test_filters_of_a_search_are_met_beside_those_of_the_searcher() -> None:
    from rag_embed.chat.filters import parse_filters

    searcher = open_searcher()
    only_ferry = parse_filters(["place=ferry"])
    assert {p.document for p in searcher.search("beans", filters=only_ferry).passages} == {"ferry.md"}
    narrow = Searcher(searcher.store, searcher.embed_model, filters=parse_filters(["place=cafe"]))
    assert {p.document for p in narrow.search("the ferry").passages} == {"cafe.md"}
    assert narrow.search("the ferry", filters=only_ferry).passages == []


def test_an_empty_index_answers_that_it_has_nothing() -> None:
    store = QdrantChunkStore("empty", location=":memory:")
    turn = Conversation(Searcher(store, ContextualEmbedding(strategy="late"))).ask("Is there anything?")
    assert (turn.answer, turn.citations, turn.error) == ("Nothing in the index answers that.", (), None)


def _span(place: str) -> tuple[int, int]:
    start, _, end = place.rpartition(":")[2].partition("-")
    return int(start), int(end)
