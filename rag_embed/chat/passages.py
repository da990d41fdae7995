"""A passage: one chunk that was found, where it stands, and why it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, TextNode

from rag_embed.stage_scores import (
    DENSE_SCORE,
    LEXICAL_SCORE,
    RETRIEVAL_SCORE,
    SHOWN_TOKENS,
    TOKEN_SCORE,
)
from rag_embed.stamp import ChunkStamp

_STAGES = {"meaning": DENSE_SCORE, "words": LEXICAL_SCORE, "tokens": TOKEN_SCORE}
_TITLE_KEYS = ("title", "file_name", "file_path")


@dataclass(frozen=True, slots=True)
class Passage:
    """One chunk that was found.

    Attributes:
        rank: From 1.
        score: After reranking.
        retrieval_score: Before reranking; equal to `score` without it.
        document: Id of the document.
        start: First character of the chunk in the document.
        end: One past its last character.
        text: The document's characters from `start` to `end`.
        shown_tokens: How much of it the list prompt held, such as "24/181"; None if nothing did.
        stages: Scores of the stages that looked at it: "meaning", "words" and "tokens".
        title: What people call the document: its title, else its file, else its id.
        node_id: Id of the chunk in its store.
    """

    rank: int
    score: float
    retrieval_score: float
    document: str
    start: int
    end: int
    text: str
    shown_tokens: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    title: str = ""
    node_id: str = ""

    @property
    def place(self) -> str:
        """Cite it: "document:start-end"."""
        return f"{self.document}:{self.start}-{self.end}"

    @property
    def reasons(self) -> list[str]:
        """Say why it was found: a sentence for each stage that looked at it, and one for its rank."""
        reasons = []
        if (meaning := self.stages.get("meaning")) is not None:
            reasons.append(f"Its meaning is near the question's: similarity {meaning:.3f}.")
        if (words := self.stages.get("words")) is not None:
            reasons.append(
                f"It shares words with the question: BM25 {words:.2f}."
                if words > 0
                else "It shares no word with the question."
            )
        if (tokens := self.stages.get("tokens")) is not None:
            reasons.append(f"Word by word, the best matches for the question average {tokens:.3f}.")
        if self.shown_tokens is not None:
            reasons.append(f"The model compared it with the others; it was shown {self.shown_tokens} tokens.")
        moved = self.retrieval_score != self.score
        before = f" (before reranking {self.retrieval_score:.3f})" if moved else ""
        reasons.append(f"Place {self.rank} with score {self.score:.3f}{before}.")
        return reasons


def to_passages(nodes: Sequence[NodeWithScore]) -> list[Passage]:
    """Describe retrieved chunks."""
    return [_to_passage(rank, found) for rank, found in enumerate(nodes, start=1)]


def title_of(node: BaseNode) -> str:
    """Name a chunk's document for people."""
    named = (node.metadata.get(key) for key in _TITLE_KEYS)
    return next((str(name) for name in named if name), node.ref_doc_id or node.node_id)


def locate(node: BaseNode) -> tuple[int, int]:
    """Find the characters of a chunk in its document, or in the text that its parser made of it."""
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    if isinstance(node, TextNode) and node.start_char_idx is not None:
        end = node.end_char_idx
        return node.start_char_idx, node.start_char_idx + len(text) if end is None else end
    stamp = ChunkStamp.from_node(node)
    return (stamp.start, stamp.end) if stamp is not None else (0, len(text))


def _to_passage(rank: int, found: NodeWithScore) -> Passage:
    node = found.node
    score = float(found.score or 0.0)
    before = node.metadata.get(RETRIEVAL_SCORE)
    start, end = locate(node)
    return Passage(
        rank=rank,
        score=score,
        retrieval_score=score if before is None else float(before),
        document=node.ref_doc_id or node.node_id,
        start=start,
        end=end,
        text=node.get_content(metadata_mode=MetadataMode.NONE),
        shown_tokens=node.metadata.get(SHOWN_TOKENS),
        stages={name: node.metadata[key] for name, key in _STAGES.items() if key in node.metadata},
        title=title_of(node),
        node_id=node.node_id,
    )
