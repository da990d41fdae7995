"""Conversations: streams, errors that lose nothing, plain data and back, many at once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.llms import LLMMetadata, MockLLM

from rag_embed.chat.conversation import Conversation
from rag_embed.chat.fitting import count_tokens, fit_passages
from rag_embed.chat.turns import Turn
from rag_embed.errors import InputError, StoreUnavailableError
from tests.chats import CAFE, ScriptedLLM, open_searcher

QUESTION = "When does the café open?"


def test_a_stream_gives_the_answer_in_pieces_and_then_the_turn() -> None:
    conversation = Conversation(open_searcher(), ScriptedLLM("It opens at seven [1], they say."))
    *pieces, turn = conversation.stream(QUESTION)
    assert pieces == ["It", " opens", " at", " seven", " [1],", " they", " say."]
    assert isinstance(turn, Turn)
    assert turn.answer == "It opens at seven [1], they say."
    assert conversation.turns == [turn]
    cited, *others = turn.citations
    assert cited.quote is not None
    assert CAFE[cited.quote.start : cited.quote.end] == cited.quote.text
    assert "opens at seven" in cited.quote.text
    assert all(citation.quote is None for citation in others)  # the answer does not cite them


def test_without_an_llm_the_quotes_come_one_by_one() -> None:
    conversation = Conversation(open_searcher())
    *pieces, turn = conversation.stream(QUESTION)
    assert isinstance(turn, Turn)
    assert "".join(map(str, pieces)) == turn.answer
    assert len(pieces) == len(turn.citations) > 1
    assert conversation.ask(QUESTION).answer == turn.answer


def test_async_is_the_same_and_leaves_the_event_loop_free() -> None:
    searcher = open_searcher()

    async def run() -> tuple[list[Any], Turn, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        conversation = Conversation(searcher, ScriptedLLM())
        pieces = [piece async for piece in conversation.astream(QUESTION)]
        turn = await Conversation(searcher, ScriptedLLM()).aask(QUESTION)
        ticking.cancel()
        return pieces, turn, ticks

    pieces, turn, ticks = asyncio.run(run())
    assert pieces[:-1] == ["At", " seven", " [1]."]
    assert pieces[-1] == turn == Conversation(searcher, ScriptedLLM()).ask(QUESTION)
    assert ticks > 0


def test_an_llm_that_fails_in_the_middle_leaves_what_it_wrote_and_says_why() -> None:
    conversation = Conversation(open_searcher(), ScriptedLLM("It opens at seven.", breaks_after=2))
    *pieces, turn = conversation.stream(QUESTION)
    assert isinstance(turn, Turn)
    assert "".join(map(str, pieces)) == turn.answer == "It opens"
    assert turn.error is not None
    assert turn.error.startswith(
        "ScriptedLLM broke off after 8 characters (ConnectionError: the line went dead)"
    )
    assert turn.citations  # the passages are still there to be read
    conversation.llm = ScriptedLLM("At seven.")
    assert conversation.ask(QUESTION).error is None
    assert len(conversation.turns) == 2


def test_an_llm_that_cannot_say_what_it_reads_is_an_error_of_the_turn() -> None:
    """Ollama's asks its server for it, which may be down or know no such model."""

    class LostLLM(ScriptedLLM):
        @property
        def metadata(self) -> LLMMetadata:
            raise RuntimeError("model 'm' not found")

    turn = Conversation(open_searcher(), LostLLM()).ask(QUESTION)
    assert str(turn.error).startswith(
        "LostLLM gave no answer (RuntimeError: model 'm' not found); check that"
    )


def test_an_llm_that_says_nothing_is_an_error() -> None:
    turn = Conversation(open_searcher(), ScriptedLLM("")).ask(QUESTION)
    assert turn.error == "ScriptedLLM gave an empty answer; ask again, or take another LLM"


def test_a_store_that_fails_is_an_error_of_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = open_searcher()
    conversation = Conversation(searcher)
    conversation.ask(QUESTION)

    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError("http://127.0.0.1:6333 does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(searcher.store), "query", fail)
        assert (
            conversation.ask("How often does the ferry leave?").error
            == "http://127.0.0.1:6333 does not answer"
        )
    assert conversation.ask("How often does the ferry leave?").error is None
    assert [bool(turn.error) for turn in conversation.turns] == [False, True, False]


@pytest.mark.parametrize(
    ("question", "says"), [(" ", "question is empty"), ("caf\udce9", "no text in UTF-8")]
)
def test_a_question_that_is_none_is_an_error_and_no_subject_of_the_next(question: str, says: str) -> None:
    conversation = Conversation(open_searcher())
    assert says in str(conversation.ask(question).error)
    assert conversation.ask("Why?").searched is None


def test_a_closed_stream_stops_the_llm_and_is_kept_as_far_as_it_came() -> None:
    conversation = Conversation(open_searcher(), ScriptedLLM("one two three four"))
    stream = conversation.stream(QUESTION)
    assert [next(stream), next(stream)] == ["one", " two"]
    stream.close()  # type: ignore[attr-defined]
    (turn,) = conversation.turns
    assert (turn.answer, turn.error) == ("one two", "the answer was stopped before its end")
    assert conversation.take_back() == turn
    assert conversation.turns == []
    assert conversation.take_back() is None


def test_a_cancelled_async_stream_stops_too() -> None:
    said: list[str] = []

    class SlowLLM(ScriptedLLM):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            for response in super().stream_chat(messages, **kwargs):
                said.append(response.delta)
                yield response
                time.sleep(0.02)

    conversation = Conversation(open_searcher(), SlowLLM("word " * 200))

    async def run() -> None:
        async for _ in conversation.astream(QUESTION):
            break  # leaves the generator to be closed

    asyncio.run(run())
    deadline = time.monotonic() + 10
    while any(thread.name == "rag-embed answer" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (turn,) = conversation.turns
    assert turn.error == "the answer was stopped before its end"
    assert turn.answer.startswith("word")
    assert len(said) < 200


def test_a_conversation_goes_to_plain_data_and_back() -> None:
    searcher = open_searcher()
    before = Conversation(searcher, ScriptedLLM("At seven [1] or [9]."))
    before.ask(QUESTION)
    before.llm = ScriptedLLM("It.", breaks_after=1)
    list(before.stream("And on Sundays?"))
    before.llm = None
    before.ask("Where did the owner learn?")
    data = json.loads(json.dumps(before.export()))
    after = Conversation(searcher)
    after.restore(data)
    assert after.turns == before.turns
    assert after.export() == before.export()
    assert after.turns[0].unknown_numbers == [9]
    assert after.ask("And the beans?").searched == "owner learn: And the beans?"
    with pytest.raises(InputError, match=r"no conversation of version 1"):
        after.restore({"turns": []})
    with pytest.raises(InputError, match="no turn of a conversation"):
        after.restore({"version": 1, "turns": [{"answer": "x", "nonesuch": 1}]})
    after.reset()
    assert after.ask("And the beans?").searched is None


def test_follow_ups_are_condensed_by_the_llm_and_what_was_searched_is_said() -> None:
    llm = ScriptedLLM("When does the café close in the evening?")
    conversation = Conversation(open_searcher(), llm)
    conversation.ask(QUESTION)
    assert len(llm.prompts) == 1  # nothing to condense
    turn = conversation.ask("And when does it close? {braces}")
    condensing, answering = llm.prompts[1:]
    assert QUESTION in condensing
    assert "Last question: And when does it close? {braces}" in condensing
    assert turn.searched == "When does the café close in the evening?"
    assert QUESTION in answering
    assert answering.count("And when does it close? {braces}") == 1


def test_passages_are_numbered_and_fitted_and_citations_are_those_shown() -> None:
    llm = ScriptedLLM(window=240)
    searcher = open_searcher()
    turn = Conversation(searcher, llm).ask(QUESTION)
    (prompt,) = llm.prompts
    assert turn.left_out
    shown = [*(citation.passage for citation in turn.citations), *turn.left_out]
    assert sorted(passage.rank for passage in shown) == [1, 2, 3, 4]
    assert len(shown) == searcher.store.count()
    assert count_tokens(prompt) + 16 <= 240
    for citation in turn.citations:
        assert f"[{citation.number}] {citation.passage.place}\n{citation.passage.text}" in prompt
    assert all(passage.text not in prompt for passage in turn.left_out)


def test_fitting_cuts_only_the_first_passage_and_counts_right() -> None:
    passages = open_searcher().search("the ferry").passages
    whole = fit_passages(passages, max_tokens=10_000)
    assert (whole.kept, whole.left_out, whole.cut) == (passages, [], None)
    cut = fit_passages(passages, max_tokens=40)
    assert cut.cut is not None
    assert cut.cut[0] < cut.cut[1] == count_tokens(passages[0].text)
    assert count_tokens(cut.text) <= 40
    assert passages[0].text.startswith(cut.text.split("\n", 1)[1])
    nothing = fit_passages(passages, max_tokens=10)
    assert (nothing.text, nothing.kept) == ("", [])
    assert nothing.left_out == passages


def test_a_long_conversation_leaves_room_for_passages() -> None:
    llm = ScriptedLLM("word " * 60, window=800)
    conversation = Conversation(open_searcher(), llm)
    for _ in range(6):
        turn = conversation.ask(QUESTION)
        assert turn.error is None
        assert turn.citations
    assert all(count_tokens(prompt) + 16 <= 800 for prompt in llm.prompts)


def test_llamaindexs_own_mock_streams_through() -> None:
    conversation = Conversation(open_searcher(), MockLLM(max_tokens=3))
    assert conversation.ask(QUESTION).answer == "text text text"
    *pieces, turn = Conversation(open_searcher(), MockLLM()).stream(QUESTION)
    assert isinstance(turn, Turn)
    assert "".join(map(str, pieces)) == turn.answer
    assert f"user: {QUESTION}" in turn.answer  # it says what it was given


def test_many_conversations_at_once_get_their_own_answers() -> None:
    searcher = open_searcher()
    questions = {
        "Where did the owner of the café learn?": "Trieste",
        "How often does the ferry leave?": "twenty minutes",
        "What do dogs pay?": "half",
    }
    asked = list(questions) * 4

    def ask(question: str) -> Turn:
        conversation = Conversation(searcher)
        conversation.ask(QUESTION)
        return conversation.ask(question)

    with ThreadPoolExecutor(6) as pool:
        turns = list(pool.map(ask, asked))
    for question, turn in zip(asked, turns, strict=True):
        assert turn.question == question
        assert turn.error is None
        assert questions[question] in turn.answer
