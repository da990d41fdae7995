"""A LlamaIndex postprocessor that widens hits to what stands around them in their documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.utils import get_tokenizer
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from pydantic import ConfigDict, Field

from rag_embed.errors import InputError
from rag_embed.llamaindex.store_access import StoreAccess
from rag_embed.stage_scores import with_hidden_metadata
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
        InputError: A hit has no stamp, so that nobody knows where it stands, or the store keeps no chunks.
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
        return self._widen(nodes, StoreAccess(self.vector_store))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        store = StoreAccess(self.vector_store, asyncio.get_running_loop())
        return await asyncio.to_thread(self._widen, nodes, store)

    def _widen(self, nodes: list[NodeWithScore], store: StoreAccess) -> list[NodeWithScore]:
        places = [_place(hit.node) for hit in nodes]
        rows = self._fetch_documents([hit.node for hit in nodes], store)
        spent = sum(_count_tokens(place) for place in places)
        taken: set[_Place] = set()
        widened: list[NodeWithScore] = []
        for hit, place in zip(nodes, places, strict=True):
            if place in taken:
                spent -= _count_tokens(place)
                continue
            taken.add(place)
            row: Sequence[_Place] = rows.get(place.context, ())
            if place not in row:
                row = [place]
            first = last = at = row.index(place)
            for index in self._candidates(row, at):
                other = row[index]
                if other in taken or index not in (first - 1, last + 1):
                    continue
                cost = 0 if other in places else _count_tokens(other)
                if cost and spent + cost > self.budget_tokens:
                    continue
                spent += cost
                taken.add(other)
                first, last = min(first, index), max(last, index)
            widened.append(_join(hit, row[first : last + 1], place))
        return widened

    def _candidates(self, row: Sequence[_Place], at: int) -> list[int]:
        """What may be put around a chunk, as places in its row, nearest first, by turns behind and before."""
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
        return [side[step] for step in range(steps) for side in (behind, before) if step < len(side)]

    def _heading(self, place: _Place) -> str:
        return "/".join(
            str(place.node.metadata[key]) for key in self.section_keys if key in place.node.metadata
        )

    def _fetch_documents(self, nodes: Sequence[BaseNode], store: StoreAccess) -> dict[str, list[_Place]]:
        """All chunks of the hits' documents by context, in reading order, from the store in one call."""
        if not self.vector_store.stores_text:
            raise InputError(
                f"the vector store is a {type(self.vector_store).__name__}, which keeps no chunks; expected "
                "one that does. Index into QdrantChunkStore, or leave NeighbourExpansion out"
            )
        ids = list(dict.fromkeys(node.ref_doc_id for node in nodes if node.ref_doc_id))
        rows: dict[str, list[_Place]] = {}
        for node in store.get_documents(ids):
            if ChunkStamp.from_node(node) is not None:
                place = _place(node)
                rows.setdefault(place.context, []).append(place)
        return {
            context: sorted(row, key=lambda each: (each.start, each.end)) for context, row in rows.items()
        }


@dataclass(frozen=True, slots=True)
class _Place:
    """A chunk and where it stands, which alone tells it from others."""

    context: str
    start: int
    end: int
    node: BaseNode = field(compare=False)
    before: str = field(compare=False)
    text: str = field(compare=False)


def _place(node: BaseNode) -> _Place:
    stamp = ChunkStamp.from_node(node)
    if stamp is None:
        raise InputError(
            f"node {node.node_id!r} has no stamp of its document, so its neighbours are not known; index "
            "with LateChunkingNodeParser, or leave NeighbourExpansion out"
        )
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return _Place(stamp.context, stamp.start, stamp.end, node, stamp.before, text)


def _count_tokens(place: _Place) -> int:
    return len(get_tokenizer()(place.text))


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
    node = with_hidden_metadata(hit.node, {WIDENED_FROM: f"{found.start}:{found.end}"})
    if isinstance(node, TextNode):
        node.set_content(text)
        node.start_char_idx, node.end_char_idx = run[0].start, end
    return NodeWithScore(node=node, score=hit.score)
