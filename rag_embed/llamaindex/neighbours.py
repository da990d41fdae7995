"""A LlamaIndex postprocessor that widens hits to what stands around them in their documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from pydantic import ConfigDict, Field

from rag_embed.errors import InputError
from rag_embed.stamp import ChunkStamp

WIDENED_FROM = "widened_from"
"""Metadata key of a widened node: the characters of its document that were found, such as "1200:1480"."""


class NeighbourExpansion(BaseNodePostprocessor):
    """Widen each hit to its neighbours, or to its heading's section, without saying anything twice.

    Every chunk of a `LateChunkingNodeParser` knows its characters in its document, so its neighbours are
    found in the vector store by what is stored there, and joined with exactly what stood between them. The
    best hit is widened first; chunks that a better hit has taken are not repeated, and a hit that a better
    one contains is left out.

    Attributes:
        vector_store: Where the chunks are.
        to: Widen by a number of chunks on each side ("neighbours"), or to all chunks around it that stand
            under the same heading ("section").
        neighbours: Chunks on each side.
        section_keys: Metadata keys that name a chunk's heading, as Markdown and HTML parsers set them.
        budget_tokens: Most tokens of all results together. Hits are never cut or left out for it, only
            what would be put around them.

    Raises:
        InputError: A hit has no stamp, so that nobody knows where it stands.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    vector_store: BasePydanticVectorStore = Field(exclude=True)
    to: Literal["neighbours", "section"] = "neighbours"
    neighbours: int = Field(default=1, ge=0)
    section_keys: tuple[str, ...] = ("header_path", "heading", "section")
    budget_tokens: int = Field(default=3000, gt=0)

    @classmethod
    def class_name(cls) -> str:
        """Name the class in serialised form."""
        return "NeighbourExpansion"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        places = [_place(hit.node) for hit in nodes]
        rows = self._fetch_documents([hit.node for hit in nodes])
        count: Callable[[str], int] = lambda text: len(get_tokenizer()(text))  # noqa: E731
        spent = sum(count(hit.node.get_content(metadata_mode=MetadataMode.NONE)) for hit in nodes)
        taken: set[tuple[str, int, int]] = set()
        widened: list[NodeWithScore] = []
        for hit, place in zip(nodes, places, strict=True):
            if place.key in taken:
                spent -= count(place.text)
                continue
            row = rows.get(place.context, [place])
            row = row if place in row else [place]
            taken.add(place.key)
            run = [place]
            for other in self._candidates(row, row.index(place)):
                cost = count(other.text)
                is_reserved = any(other == later for later in places)
                if other.key in taken or not _touches(run, other, row):
                    continue
                if not is_reserved and spent + cost > self.budget_tokens:
                    continue
                spent += 0 if is_reserved else cost
                taken.add(other.key)
                run.append(other)
            widened.append(_join(hit, sorted(run, key=lambda each: each.start), place))
        return widened

    def _candidates(self, row: Sequence[_Place], at: int) -> list[_Place]:
        """What may be put around a chunk, nearest first, by turns behind and before."""
        if self.to == "neighbours":
            before = list(range(at - 1, max(at - self.neighbours, 0) - 1, -1))
            behind = list(range(at + 1, min(at + self.neighbours, len(row) - 1) + 1))
        else:
            heading = self._heading(row[at])
            before, behind = [], []
            if heading:
                while (left := at - len(before) - 1) >= 0 and self._heading(row[left]) == heading:
                    before.append(left)
                while (right := at + len(behind) + 1) < len(row) and self._heading(row[right]) == heading:
                    behind.append(right)
        steps = max(len(before), len(behind))
        turns = [side[step] for step in range(steps) for side in (behind, before) if step < len(side)]
        return [row[index] for index in turns]

    def _heading(self, place: _Place) -> str:
        return "/".join(
            str(place.node.metadata[key]) for key in self.section_keys if key in place.node.metadata
        )

    def _fetch_documents(self, nodes: Sequence[BaseNode]) -> dict[str, list[_Place]]:
        """All chunks of the hits' documents by context, in reading order, from the store in one call."""
        ids = list(dict.fromkeys(node.ref_doc_id for node in nodes if node.ref_doc_id))
        found = self.vector_store.get_nodes(
            filters=MetadataFilters(
                filters=[MetadataFilter(key="doc_id", value=ids, operator=FilterOperator.IN)]
            )
        )
        rows: dict[str, list[_Place]] = {}
        for node in found:
            if ChunkStamp.from_node(node) is not None:
                place = _place(node)
                rows.setdefault(place.context, []).append(place)
        return {
            context: sorted(row, key=lambda each: (each.start, each.end)) for context, row in rows.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A chunk and where it stands."""

    node: BaseNode
    context: str
    start: int
    end: int
    before: str
    text: str

    @property
    def key(self) -> tuple[str, int, int]:
        return self.context, self.start, self.end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _place(node: BaseNode) -> _Place:
    stamp = ChunkStamp.from_node(node)
    if stamp is None:
        raise InputError(
            f"node {node.node_id!r} has no stamp of its document, so its neighbours are not known; index "
            "with LateChunkingNodeParser, or leave NeighbourExpansion out"
        )
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return _Place(node, stamp.context, stamp.start, stamp.end, stamp.before, text)


def _touches(run: Sequence[_Place], other: _Place, row: Sequence[_Place]) -> bool:
    """Whether a chunk continues a run, with no chunk left out between."""
    indices = [row.index(each) for each in run]
    return row.index(other) in (min(indices) - 1, max(indices) + 1)


def _join(hit: NodeWithScore, run: Sequence[_Place], found: _Place) -> NodeWithScore:
    """One node of a run of chunks: the document's own characters from the first to the last."""
    if len(run) == 1:
        return hit
    text, end = run[0].text, run[0].end
    for place in run[1:]:
        if place.start >= end:
            text += place.before + place.text
        else:
            text += place.text[end - place.start :]  # chunks that overlap share these characters
        end = max(end, place.end)
    node = hit.node.model_copy(
        update={"metadata": {**hit.node.metadata, WIDENED_FROM: f"{found.start}:{found.end}"}}
    )
    for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
        setattr(node, name, [*getattr(node, name), WIDENED_FROM])
    if isinstance(node, TextNode):
        node.set_content(text)
        node.start_char_idx, node.end_char_idx = run[0].start, end
    return NodeWithScore(node=node, score=hit.score)
