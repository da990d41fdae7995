"""Complete a question that leans on an earlier one, without an LLM."""

from __future__ import annotations

from collections.abc import Sequence

_FOLLOW_UP_WORDS = 4


def complete(question: str, earlier: Sequence[str]) -> str:
    """Put in front of a follow-up what it leans on.

    Args:
        question: What is asked now.
        earlier: The questions before it, oldest first.

    Returns:
        What to search; the question itself where it stands alone.
    """
    is_follow_up = bool(earlier) and len(question.split()) <= _FOLLOW_UP_WORDS
    return f"{earlier[-1]} {question}" if is_follow_up else question
