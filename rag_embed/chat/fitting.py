"""Fit passages into what an LLM can read, and say what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.llms import ChatMessage, LLMMetadata
from llama_index.core.utils import get_tokenizer

from rag_embed.chat.passages import Passage
from rag_embed.errors import ContextOverflowError

SLACK_TOKENS = 48
"""Kept free for what a chat format puts around messages."""
MESSAGE_TOKENS = 6
"""The same for each message of the conversation so far."""

_JOINT = "\n\n"
_JOINT_TOKENS = 2
_SHORTEST_CUT = 24
DEFAULT_OUTPUT_TOKENS = 256
"""Reserved for the answer of an LLM that does not say how long its answers are."""


def count_tokens(text: str) -> int:
    """Count tokens as LlamaIndex does: by tiktoken and the table that llama-index-core ships, so offline."""
    return len(get_tokenizer()(text))


@dataclass(frozen=True, slots=True)
class FittedPassages:
    """What an LLM is shown.

    Attributes:
        text: The passages that fit, numbered from 1, each behind its place.
        kept: Those passages, in order.
        left_out: The others.
        cut: Tokens of the first passage that are shown and that it has, if it had to be cut.
    """

    text: str
    kept: Sequence[Passage]
    left_out: Sequence[Passage]
    cut: tuple[int, int] | None = None


def fit_passages(passages: Sequence[Passage], *, max_tokens: int) -> FittedPassages:
    """Number passages and keep, in order, those that fit.

    A passage is kept whole or left out; only when not even the first one fits is it cut.

    Args:
        passages: Best first.
        max_tokens: Most tokens of all together.
    """
    shown: list[str] = []
    kept: list[Passage] = []
    left_out: list[Passage] = []
    cut: tuple[int, int] | None = None
    room = max_tokens
    for passage in passages:
        header = f"[{len(kept) + 1}] {passage.place}\n"
        text = header + passage.text
        size = count_tokens(text) + _JOINT_TOKENS
        if size > room and not kept and room >= _SHORTEST_CUT + count_tokens(header):
            text = _cut(text, room - _JOINT_TOKENS)
            cut = (count_tokens(text) - count_tokens(header), count_tokens(passage.text))
            size = room
        if size > room:
            left_out.append(passage)
            continue
        room -= size
        kept.append(passage)
        shown.append(text)
    return FittedPassages(_JOINT.join(shown), kept, left_out, cut)


def passage_budget(limits: LLMMetadata, *, prompt: str, history: Sequence[ChatMessage], message: str) -> int:
    """Count what an LLM's context has left for passages.

    Args:
        limits: How much the LLM reads and how much it answers.
        prompt: The instructions around the passages.
        history: The conversation so far, as it will be shown.
        message: What the user asks now.

    Raises:
        ContextOverflowError: Nothing is left.
    """
    window = limits.context_window
    output = limits.num_output
    if output <= 0:
        output = min(DEFAULT_OUTPUT_TOKENS, window // 4)
    texts = [prompt, message, *(str(entry.content) for entry in history)]
    used = [count_tokens(text) for text in texts]
    room = window - output - sum(used) - SLACK_TOKENS - MESSAGE_TOKENS * len(history)
    if room < _SHORTEST_CUT:
        raise ContextOverflowError(
            f"the LLM reads {window} tokens; {output} are kept for its answer, and instructions, question "
            f"and conversation take {sum(used)}, which leaves {max(room, 0)} for passages. Expected at least "
            f"{_SHORTEST_CUT}: ask a shorter question, start the conversation anew, or use an LLM that reads "
            "more"
        )
    return room


def _cut(text: str, max_tokens: int) -> str:
    """Longest beginning of a text, up to a word's end, that has at most so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(text[:middle]) <= max_tokens else (low, middle - 1)
    beginning = text[:low]
    return (
        beginning if low == len(text) else beginning[: max(beginning.rfind(" "), beginning.rfind("\n")) + 1]
    )
