"""Complete a question that leans on an earlier one, without an LLM: by the words it leaves out.

English only: a question in another language is searched as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_embed.chat.words import EMPTY_WORDS, FRAGMENT_STARTS, PREPOSITIONS, VERBS, content_words, split_words

_LEAD = re.compile(
    r"(?:(?:and|but|or|so|also|then|ok|okay)\b[\s,]*)+(?:(?:what|how)\s+about\b\s*)?|(?:what|how)\s+about\b\s*",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"(?:what|how)\s+about\b", re.IGNORECASE)
_PRONOUN = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|themselves|he|him|his|she|her|hers)\b(?!\s*[.]\w)"
    r"|\b(?:this|that|these|those)(?=\s*[?.!,]*\s*$|\s+(?:is|are|was|were|do|does|did|has|have|had|can|could|"
    r"will|would|should|must|may|might|one|ones|case|too|also|mean|means|happen|work|apply|help|change)\b)"
    r"|\b(?:the\s+(?:former|latter|same|others?|first one|second one)|there)\b(?=\s*[?.!]*\s*$)",
    re.IGNORECASE,
)
_EXPLETIVE = re.compile(
    r"\b(?:is|was|does|would|will|can)\s+it\s+(?:possible|necessary|allowed|true|better|safe|legal|matter|take|"
    r"make sense|rain|snow)\b|\bit\s+(?:is|was)\s+(?:possible|necessary|allowed|true|said)\b",
    re.IGNORECASE,
)
_LONGEST_FRAGMENT = 5


def complete(question: str, earlier: Sequence[tuple[str, str]]) -> str:
    """Put in front of a follow-up the subject that it leaves out.

    A question leans on the conversation if it has a pronoun whose noun is not in it ("When does it close?"),
    asks about another thing in the same way ("And what about dogs?"), or is no whole question ("Why?", "in
    winter?"). Any other question stands alone, and is searched as it was asked.

    Args:
        question: What is asked now.
        earlier: The questions before it, oldest first: as asked, and what was searched for them.

    Returns:
        What to search: the words that matter of the last question that stood alone and of the last one of
        all, and then the question; or the question itself.
    """
    if not earlier or not leans(question):
        return question
    base = next((asked for asked, searched in reversed(earlier) if asked == searched), earlier[0][0])
    own = {word.lower() for word in split_words(question)}
    subject = content_words(f"{base} {earlier[-1][0]}")
    added = [word for word in subject if word.lower() not in own]
    return f"{' '.join(added)}: {question}" if added else question


def leans(question: str) -> bool:
    """Whether a question cannot be understood without what was said before it."""
    lead = _LEAD.match(question)
    rest = question[lead.end() :] if lead else question
    words = [word.lower() for word in split_words(rest)]
    content = [word for word in words if word not in EMPTY_WORDS]
    if _ABOUT.search(question[: lead.end()] if lead else ""):
        return True
    pronoun = _PRONOUN.search(meant := _EXPLETIVE.sub(" ", rest))
    if pronoun and not _is_named(pronoun[0], meant[: pronoun.start()]):
        return True
    has_verb = bool(content) and any(word in VERBS for word in words)
    is_whole = has_verb or (len(content) > 1 and words[0] not in PREPOSITIONS)
    if is_whole or len(words) > _LONGEST_FRAGMENT:
        return False
    return bool(lead) or not words or words[0] in FRAGMENT_STARTS


def _is_named(pronoun: str, before: str) -> bool:
    """Whether what stands before a pronoun has its noun: "When does a cat wash its paws?"."""
    nouns = len(content_words(before))
    return nouns >= (1 if pronoun.lower() in {"its", "their", "his", "her", "itself"} else 2)
