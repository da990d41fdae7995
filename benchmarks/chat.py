"""The chatbot under load: time to the first token beyond the LLM's own, and many people at once.

At the level of the page's sessions, without browsers; the page adds up to 50 ms, which is how often it looks.
The LLM is none: it repeats the question at once. Chunks are real words in random order around random vectors,
so that there are as many as wanted in a minute; questions are embedded by the real encoder.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from llama_index.core import Document
from llama_index.core.llms import ChatMessage, ChatResponse, MessageRole, MockLLM
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from benchmarks.report import describe_model, make_parser, write_report
from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.indexes.opening import ModelOptions, Place
from rag_embed.web.archive import Archive
from rag_embed.web.library import Library
from rag_embed.web.sessions import Finding, Session, Sessions

CHUNKS, QUICK_CHUNKS = 20_000, 300
WORDS_PER_CHUNK, DIM, BATCH = 120, 384, 1000
QUESTIONS_PER_CONVERSATION = 10


class Echo(MockLLM):
    """Repeats the question at once."""

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        """Stream two pieces."""

        def speak() -> Any:
            said = ""
            for delta in ("Echo: ", str(messages[-1].content)):
                said += delta
                yield ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=said), delta=delta)

        return speak()


def fill(folder: Path, count: int) -> None:
    """Make an index of so many chunks, each a document of its own."""
    generator = np.random.default_rng(0)
    words = np.array(" ".join(topics.values()).split())  # once: choosing from a list would do it each time
    with QdrantChunkStore("documents", path=folder, lexical=True) as store:
        # One real document says how vectors are made; the others carry its stamp.
        parser = LateChunkingNodeParser(embed_model=ContextualEmbedding(strategy="late"))
        real = parser([Document(text="The ferry leaves at nine.", id_="ferry")])
        store.add(real)
        source = real[0].relationships[NodeRelationship.SOURCE]
        assert isinstance(source, RelatedNodeInfo)
        for first in range(1, count, BATCH):
            store.add(
                [make_chunk(n, source, words, generator) for n in range(first, min(first + BATCH, count))]
            )


def make_chunk(
    number: int, source: RelatedNodeInfo, words: np.ndarray, generator: np.random.Generator
) -> TextNode:
    """A document of one chunk."""
    text = " ".join(generator.choice(words, WORDS_PER_CHUNK))
    vector = generator.standard_normal(DIM)
    owner = RelatedNodeInfo(node_id=f"document-{number}", metadata=source.metadata)
    return TextNode(
        text=text,
        embedding=(vector / np.linalg.norm(vector)).tolist(),
        start_char_idx=0,
        end_char_idx=len(text),
        relationships={NodeRelationship.SOURCE: owner},
    )


def person(number: int) -> str:
    """What a browser's cookie says."""
    return str(uuid.UUID(int=number))


async def ask(sessions: Sessions, session: Session, question: str) -> float:
    """Seconds to the first token; returns when the answer is whole."""
    begun = time.perf_counter()
    sessions.ask(session, question)
    while session.answering is not None and not session.answering.text:
        await asyncio.sleep(0.001)
    seconds = time.perf_counter() - begun
    while session.answering is not None:
        await asyncio.sleep(0.005)
    return seconds


async def time_first_tokens(sessions: Sessions, questions: int) -> dict[str, object]:
    """One person, one new conversation for each question."""
    await ask(sessions, sessions.begin(person(0)), "What is warm?")
    words = sorted(topics)
    seconds = [
        await ask(sessions, sessions.begin(person(0)), f"What happens to {words[n % len(words)]} statements?")
        for n in range(questions)
    ]
    milliseconds = 1000 * np.array(seconds)
    return {
        "questions": questions,
        "median_ms": _round(np.median(milliseconds)),
        "worst_ms": _round(max(milliseconds)),
    }


async def be_many(sessions: Sessions, people: int, minutes: float) -> dict[str, object]:
    """Everybody asks, waits for the answer, and asks again up to a second later."""
    end = time.monotonic() + 60 * minutes
    generator = np.random.default_rng(1)
    asked = errors = strangers = 0
    memory: list[float] = []

    async def be_one(number: int) -> None:
        nonlocal asked, errors, strangers
        session = sessions.begin(person(number))
        count = 0
        while time.monotonic() < end:
            question = f"Person {number} asks for the time {count} what ferries do"
            await ask(sessions, session, question)
            turn = session.turns[-1]
            count += 1
            asked += 1
            errors += turn.error is not None
            strangers += turn.question != question or turn.answer != f"Echo: {question}"
            if count % QUESTIONS_PER_CONVERSATION == 0:
                session = sessions.begin(person(number))
            await asyncio.sleep(generator.random())

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(_resident_mb())
            await asyncio.sleep(max(1.0, 6 * minutes))

    await asyncio.gather(*(be_one(number) for number in range(people)), watch())
    return {
        "people": people,
        "minutes": minutes,
        "questions": asked,
        "errors": errors,
        "answers_in_a_wrong_conversation": strangers,
        "memory_mb": [_round(value) for value in [*memory, _resident_mb()]],
    }


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _round(value: float) -> float:
    return round(float(value), 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the many go on")
    parser.add_argument("--people", type=int, default=20)
    options = parser.parse_args(argv)
    chunks, minutes, questions = CHUNKS, options.minutes, 30
    if options.quick:
        chunks, minutes, questions = QUICK_CHUNKS, 0.03, 2
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "store"), chunks)
        library = Library(Place("documents", Path(folder, "store")), ModelOptions())
        sessions = Sessions(library, Archive(Path(folder, "chat")), {"Echo": Echo()}, Finding())

        async def run() -> dict[str, object]:
            first = await time_first_tokens(sessions, questions)
            print(f"first token: {first}", flush=True)
            return {
                "chunks": chunks,
                "first_token": first,
                "many": await be_many(sessions, options.people, minutes),
            }

        results = asyncio.run(run())
        library.close()
    write_report(
        "chat",
        options,
        model=describe_model(ContextualEmbedding(strategy="late")),
        data="random vectors, words of Python's language reference",
        n=questions,
        interval="none: median and worst of one run",
        results=results,
    )


if __name__ == "__main__":
    main()
