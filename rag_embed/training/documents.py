"""Documents to train on, and the stretches of them that go through the encoder in one piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from rag_embed.encoder import Encoder
from rag_embed.errors import InputError
from rag_embed.spans import CharSpan, TokenSpan, align_tokens


@dataclass(frozen=True, slots=True)
class TrainingDocument:
    """A document, its chunks, and questions that single chunks answer.

    Attributes:
        doc_id: Unique among all that are trained on together.
        text: The document.
        spans: Characters of each chunk.
        pairs: Questions with the index of the chunk that answers each.
        head: What stands before every window and every isolated chunk, such as a title.
        source: Data set that it is from; figures are kept by source.
        is_question_local: Whether the questions have a meaning only inside the document, so that chunks of
            other documents of the source are no wrong answers.
    """

    doc_id: str
    text: str
    spans: tuple[CharSpan, ...]
    pairs: tuple[tuple[str, int], ...]
    head: str = ""
    source: str = ""
    is_question_local: bool = False

    def is_rival_of(self, other: TrainingDocument) -> bool:
        """Whether the other document's chunks are wrong answers to this one's questions."""
        is_alike = self.is_question_local and self.source == other.source
        return not is_alike and self.doc_id != other.doc_id


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """Whole chunks of one document in a row, as many as one forward pass takes, with their questions.

    Attributes:
        document: Where it is from.
        chunks: Indices of the chunks in it.
        ids: Tokens with head and special tokens.
        head_ids: Tokens of the head alone.
        token_spans: Where each of the chunks is in `ids`.
        questions: Texts.
        golds: For each question the position in `chunks` of its answer.
    """

    document: TrainingDocument
    chunks: tuple[int, ...]
    ids: Int[np.ndarray, " tokens"]
    head_ids: Int[np.ndarray, " head"]
    token_spans: tuple[TokenSpan, ...]
    questions: tuple[str, ...]
    golds: tuple[int, ...]

    @property
    def char_spans(self) -> list[CharSpan]:
        """Where its chunks are in the document."""
        return [self.document.spans[chunk] for chunk in self.chunks]

    def text(self, position: int) -> str:
        """Text of one of its chunks."""
        span = self.document.spans[self.chunks[position]]
        return self.document.text[span.start : span.end]


class WindowSampler:
    """Draws the windows of each step by seed and step alone, so that a resumed run sees what it would have.

    Every source gets the same number of steps, whatever its size.

    Args:
        documents: With at least one pair each.
        encoder: For its tokenizer.
        window_tokens: Most tokens of a window, head and special tokens included.
        head_tokens: Most tokens of the head.
        windows_per_step: How many are drawn for one step.
        windows_per_document: At most so many of them are of one document. With several an answer has to win
            against chunks from all over its document, as in a search, and not against its neighbours alone.
        questions_per_window: At most so many questions of a window are asked.
        seed: Of the order.
    """

    def __init__(
        self,
        documents: Sequence[TrainingDocument],
        encoder: Encoder,
        *,
        window_tokens: int,
        head_tokens: int,
        windows_per_step: int,
        windows_per_document: int = 1,
        questions_per_window: int = 4,
        seed: int = 0,
    ) -> None:
        self._by_source: dict[str, list[TrainingDocument]] = {}
        counts = Counter(document.doc_id for document in documents)
        if doubled := sorted(doc_id for doc_id, count in counts.items() if count > 1):
            raise InputError(
                f"{len(doubled)} ids stand for more than one training document, such as {doubled[0]!r}; "
                "expected ids that are unique over all sources"
            )
        for document in documents:
            self._by_source.setdefault(document.source, []).append(document)
        self._encoder = encoder
        self._window_tokens = window_tokens
        self._head_tokens = head_tokens
        self._windows_per_step = windows_per_step
        self._windows_per_document = windows_per_document
        self._questions_per_window = questions_per_window
        self._seed = seed
        self._tokenized: dict[str, tuple[Int[np.ndarray, " tokens"], list[TokenSpan]]] = {}

    @property
    def source_count(self) -> int:
        """How many steps make a round."""
        return len(self._by_source)

    def draw(self, step: int) -> list[TrainingWindow]:
        """Draw the windows of a step; those of one document follow one another and share no chunk.

        All are from one source: its other documents are the hardest wrong answers.
        """
        generator = np.random.default_rng([self._seed, step])
        sources = sorted(self._by_source)
        # Every source once a round, in another order each round.
        order = np.random.default_rng([self._seed, step // len(sources)]).permutation(len(sources))
        pool = self._by_source[sources[int(order[step % len(sources)])]]
        drawn = generator.choice(len(pool), min(self._windows_per_step, len(pool)), replace=False)
        windows: list[TrainingWindow] = []
        for index in drawn:
            count = min(self._windows_per_document, self._windows_per_step - len(windows))
            windows += self._draw_windows(pool[int(index)], count, generator)
        return windows

    def _draw_windows(
        self, document: TrainingDocument, count: int, generator: np.random.Generator
    ) -> list[TrainingWindow]:
        """Up to `count` windows of one document, each around an answer that is in none before it."""
        windows: list[TrainingWindow] = []
        taken: set[int] = set()
        while len(windows) < count:
            free = [index for index, (_, gold) in enumerate(document.pairs) if gold not in taken]
            if not free:
                break
            anchor = free[int(generator.integers(len(free)))]
            windows.append(self._window_around(document, anchor, taken, generator))
            taken.update(windows[-1].chunks)
        return windows

    def _window_around(
        self,
        document: TrainingDocument,
        anchor: int,
        taken: set[int],
        generator: np.random.Generator,
    ) -> TrainingWindow:
        """The window that holds the answer to question `anchor`, at a random place, and no chunk taken."""
        ids, spans = self._tokenize(document)
        prefix, suffix = self._encoder.prefix_ids, self._encoder.suffix_ids
        head = self._encoder.tokenize(document.head).ids[: self._head_tokens]
        room = self._window_tokens - len(prefix) - len(suffix) - len(head)
        first = last = document.pairs[anchor][1]
        while True:
            grown = [
                (lower, upper)
                for lower, upper in ((first - 1, last), (first, last + 1))
                if lower >= 0
                and upper < len(spans)
                and taken.isdisjoint((lower, upper))
                and spans[upper].end - spans[lower].start <= room
            ]
            if not grown:
                break
            first, last = grown[int(generator.integers(len(grown)))]
        start, end = spans[first].start, min(spans[last].end, spans[first].start + room)
        longest = self._encoder.capacity
        offset = len(prefix) + len(head) - start
        chunks = tuple(range(first, last + 1))
        asked = [i for i, (_, gold) in enumerate(document.pairs) if first <= gold <= last and i != anchor]
        chosen = [anchor, *generator.permutation(asked)[: self._questions_per_window - 1].astype(int)]
        return TrainingWindow(
            document=document,
            chunks=chunks,
            ids=np.concatenate([prefix, head, ids[start:end], suffix]).astype(np.int64),
            head_ids=head,
            token_spans=tuple(
                TokenSpan(span.start + offset, min(span.end, end, span.start + longest) + offset)
                for span in spans[first : last + 1]
            ),
            questions=tuple(document.pairs[i][0] for i in chosen),
            golds=tuple(document.pairs[i][1] - first for i in chosen),
        )

    def _tokenize(self, document: TrainingDocument) -> tuple[Int[np.ndarray, " tokens"], list[TokenSpan]]:
        if document.doc_id not in self._tokenized:
            tokens = self._encoder.tokenize(document.text)
            spans = align_tokens(document.text, tokens.starts, tokens.ends, document.spans)
            self._tokenized[document.doc_id] = (tokens.ids, spans)
        return self._tokenized[document.doc_id]


def split_documents(
    documents: Sequence[TrainingDocument], *, held_out: float, seed: int = 0
) -> tuple[list[TrainingDocument], list[TrainingDocument]]:
    """Split into documents to train on and documents held out, by source, whole documents only."""
    train: list[TrainingDocument] = []
    held: list[TrainingDocument] = []
    for source in sorted({document.source for document in documents}):
        members = [document for document in documents if document.source == source]
        order = np.random.default_rng(seed).permutation(len(members))
        count = max(1, round(held_out * len(members)))
        held += [members[int(index)] for index in order[:count]]
        train += [members[int(index)] for index in order[count:]]
    return train, held
