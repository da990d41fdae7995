"""The families as rows for people and programs: what `rag-embed models` shows and docs/models.md holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_embed.profiles.families import FAMILIES, GENERIC, MULTI_VECTOR
from rag_embed.profiles.family import Family


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One family.

    Attributes:
        family: Its name.
        checkpoints: Ids on the Hugging Face hub.
        dims: Sizes of its vectors.
        matryoshka_dims: Sizes to which they may be cut.
        max_tokens: Most tokens it reads at once; None if its files say.
        pooling: How states become a vector.
        precisions: Forms of a vector that it was trained for.
        strategies: Strategies that apply, without insisting.
        query_prefix: Put before queries.
        document_prefix: Put before documents.
        licence: Of the weights.
        tested: How it is tested here.
        note: What else to know.
    """

    family: str
    checkpoints: str
    dims: tuple[int, ...]
    matryoshka_dims: tuple[int, ...]
    max_tokens: int | None
    pooling: str
    precisions: tuple[str, ...]
    strategies: tuple[str, ...]
    query_prefix: str
    document_prefix: str
    licence: str
    tested: str
    note: str


def list_families() -> list[CatalogueRow]:
    """All families in the order in which a checkpoint is matched, and last what holds for kinds of layout."""
    return [_make_row(family) for family in (*FAMILIES, MULTI_VECTOR, GENERIC)]


def render_markdown(rows: Sequence[CatalogueRow]) -> str:
    """The rows as two Markdown tables: what they are, and how they are used."""
    what = [
        [
            row.family,
            row.checkpoints,
            _join(row.dims),
            f"{row.max_tokens:,}" if row.max_tokens else "its files say",
            row.licence,
            row.tested,
        ]
        for row in rows
    ]
    how = [
        [
            row.family,
            row.pooling,
            "yes" if "late" in row.strategies else "no",
            ", ".join(row.strategies),
            _quote(row.query_prefix),
            _quote(row.document_prefix),
            _join(row.matryoshka_dims),
            ", ".join(row.precisions),
            row.note,
        ]
        for row in rows
    ]
    return (
        _table(["family", "checkpoints", "dimensions", "context", "licence", "tested here"], what)
        + "\n\n"
        + _table(
            [
                "family",
                "pooling",
                "late chunking",
                "strategies",
                "query prefix",
                "document prefix",
                "Matryoshka",
                "precision",
                "note",
            ],
            how,
        )
    )


def _make_row(family: Family) -> CatalogueRow:
    pooling = "mean between separators" if family.separator else family.pooling.replace("-", " ")
    strategies = ("isolated", "late", "blend") if family.allows_late_chunking else ("isolated",)
    return CatalogueRow(
        family=family.name,
        checkpoints=family.example,
        dims=family.dims,
        matryoshka_dims=family.matryoshka_dims,
        max_tokens=family.max_tokens if family.architectures else None,
        pooling="its files say" if family is GENERIC else pooling + (", causal" if family.is_causal else ""),
        precisions=family.precisions,
        strategies=("native", "isolated") if family.separator else strategies,
        query_prefix=family.query_prefix,
        document_prefix=family.document_prefix,
        licence=family.licence,
        tested=family.tested,
        note=family.note,
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)


def _quote(prefix: str) -> str:
    return f"`{prefix}`".replace("\n", "\\n") if prefix else ""


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
