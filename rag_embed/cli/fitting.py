"""Fit passages into what an LLM can read, and say what is left out."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.utils import get_tokenizer
from pydantic import Field

from rag_embed.cli.searching import Passage, to_passages
from rag_embed.errors import ContextOverflowError

SLACK_TOKENS = 48
"""Kept free for what a chat format puts around messages."""
MESSAGE_TOKENS = 6
"""The same for each message of the conversation so far."""

_JOINT_TOKENS = 2  # LlamaIndex joins passages by blank lines
_SHORTEST_CUT = 24
DEFAULT_OUTPUT_TOKENS = 256
"""Reserved for the answer of an LLM that does not say how long its answers are."""


def count_tokens(text: str) -> int:
    """Count tokens as LlamaIndex does: by tiktoken and the table that llama-index-core ships, so offline."""
    return len(get_tokenizer()(text))


class ContextFit(BaseNodePostprocessor):
    """Number passages and keep, in order, those that fit.

    A passage is kept whole or left out; only when not even the first one fits is it cut.

    Attributes:
        max_tokens: Most tokens of all passages together.
        kept: What the last call kept.
        left_out: What the last call left out.
        cut: Tokens of the first passage that were shown and that it has, if the last call had to cut it.
    """

    max_tokens: int = Field(default=2048, gt=0)
    kept: list[Passage] = Field(default_factory=list, exclude=True)
    left_out: list[Passage] = Field(default_factory=list, exclude=True)
    cut: tuple[int, int] | None = Field(default=None, exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "ContextFit"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        self.kept, self.left_out, self.cut = [], [], None
        room = self.max_tokens
        result: list[NodeWithScore] = []
        for found, passage in zip(nodes, to_passages(nodes), strict=True):
            header = f"[{len(result) + 1}] {passage.place}\n"
            text = header + passage.text
            size = count_tokens(text) + _JOINT_TOKENS
            if size > room and not result and room >= _SHORTEST_CUT + count_tokens(header):
                text = _cut(text, room - _JOINT_TOKENS)
                self.cut = (count_tokens(text) - count_tokens(header), count_tokens(passage.text))
                size = room
            if size > room:
                self.left_out.append(passage)
                continue
            room -= size
            self.kept.append(passage)
            result.append(NodeWithScore(node=_show(found, text), score=found.score))
        return result


def passage_budget(llm: LLM, *, prompt: str, history: Sequence[ChatMessage], message: str) -> int:
    """Count what an LLM's context has left for passages.

    Args:
        llm: Says how much it reads and how much it answers.
        prompt: The instructions around the passages.
        history: The conversation so far, as it will be shown.
        message: What the user asks now.

    Raises:
        ContextOverflowError: Nothing is left.
    """
    window = llm.metadata.context_window
    output = llm.metadata.num_output
    if output <= 0:
        output = min(DEFAULT_OUTPUT_TOKENS, window // 4)
    texts = [prompt, message, *(str(entry.content) for entry in history)]
    used = [count_tokens(text) for text in texts]
    room = window - output - sum(used) - SLACK_TOKENS - MESSAGE_TOKENS * len(history)
    if room < _SHORTEST_CUT:
        raise ContextOverflowError(
            f"the LLM reads {window} tokens; {output} are kept for its answer, and instructions, question "
            f"and conversation take {sum(used)}, which leaves {max(room, 0)} for passages. Expected at least "
            f"{_SHORTEST_CUT}: ask a shorter question, /reset the conversation, or use an LLM that reads "
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


def _show(found: NodeWithScore, text: str) -> TextNode:
    """Copy a chunk as the LLM shall see it: the given text and no metadata."""
    node = found.node
    shown = TextNode(
        id_=node.node_id,
        text=text,
        metadata=node.metadata,
        relationships=node.relationships,
        excluded_llm_metadata_keys=list(node.metadata),
    )
    assert shown.get_content(metadata_mode=MetadataMode.LLM).strip() == text.strip()
    return shown
