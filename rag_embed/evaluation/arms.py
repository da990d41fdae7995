"""Arms as data: a name, and the options of `ContextualEmbedding` that it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rag_embed.errors import InputError
from rag_embed.evaluation.vectors import with_options
from rag_embed.fusion import Fusion
from rag_embed.llamaindex import ContextualEmbedding

ISOLATED = "isolated"
TITLED = "title + isolated"
BM25 = "bm25"
HYBRID = "hybrid"
ALPHAS = (0.5,)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to search.

    Attributes:
        name: "title + blend 0.5 + rerank".
        options: Of `ContextualEmbedding`; what is not among them is as the evaluated model has it.
        method: How the first stage finds chunks: by vectors, by words, or by both. Behind BM25 the options
            say what a reranker compares.
        with_title: Whether chunks carry their document's title as metadata.
        fusion: How a hybrid search mixes its scores.
        is_reranked: Whether `ListwiseRerank` reorders what was found, by late interaction.
        is_default: Whether this is what a user gets who sets nothing.
    """

    name: str
    options: Mapping[str, Any]
    method: Literal["vectors", "bm25", "hybrid"] = "vectors"
    with_title: bool = False
    fusion: Fusion = "scores"
    is_reranked: bool = False
    is_default: bool = False

    @property
    def is_contextual(self) -> bool:
        """Whether a chunk is read in its document, beyond a title in front of it."""
        return self.method != "bm25" and self.options["strategy"] != "isolated"

    @property
    def passes(self) -> int:
        """How often the text goes through the encoder while indexing."""
        if self.method == "bm25":
            return 0
        return 2 if self.options["strategy"] == "blend" else 1

    def make_model(self, model: ContextualEmbedding) -> ContextualEmbedding:
        """Make the model that this arm indexes with."""
        return with_options(model, **self.options)


def make_arms(
    model: ContextualEmbedding,
    *,
    has_titles: bool,
    adapter: str | None = None,
    alphas: Sequence[float] = ALPHAS,
    with_rerank: bool = False,
) -> list[Arm]:
    """List all arms: BM25, isolated, late and blends; with titles; with an adapter; reranked.

    Args:
        model: Its own strategy and adapter are the arm marked as default; if no other arm has them, it is
            one of its own.
        has_titles: Whether documents have titles that may be used.
        adapter: A shipped adapter's name or a folder, for arms of its own; by default the model's.
        alphas: Shares of the contextual vector in the blends.
        with_rerank: Whether each arm is there a second time, reranked.
    """
    if adapter is None and with_options(model, strategy="late").located_adapter is not None:
        adapter = model.adapter
    titles = (False, True) if has_titles else (False,)
    plain = [
        replace(arm, name=f"title + {arm.name}" if with_title else arm.name, with_title=with_title)
        for with_title in titles
        for arm in _basic_arms(adapter, alphas)
    ]
    arms = list(_mark_default(plain, model, with_title=has_titles))
    arms.sort(key=lambda arm: arm.method != "bm25")
    if not with_rerank:
        return arms
    return [
        each
        for arm in arms
        for each in (arm, replace(arm, name=f"{arm.name} + rerank", is_reranked=True, is_default=False))
    ]


def _basic_arms(adapter: str | None, alphas: Sequence[float]) -> Iterator[Arm]:
    yield Arm(BM25, {"adapter": None, "strategy": "isolated"}, method="bm25")
    yield Arm(ISOLATED, {"adapter": None, "strategy": "isolated"})
    for late, blend, used in (("late", "blend", None), ("adapter", "adapter blend", adapter)):
        if late == "late" or adapter is not None:
            yield Arm(late, {"adapter": used, "strategy": "late"})
            for alpha in alphas:
                yield Arm(f"{blend} {alpha:g}", {"adapter": used, "strategy": "blend", "alpha": alpha})


def _mark_default(arms: Sequence[Arm], model: ContextualEmbedding, *, with_title: bool) -> Iterator[Arm]:
    """Mark the arm that is the model as it stands, with titles if there are any, or add it."""
    own = model.fingerprint()
    is_known = False
    for arm in arms:
        is_default = (
            arm.method == "vectors"
            and arm.with_title == with_title
            and arm.make_model(model).fingerprint() == own
        )
        is_known |= is_default
        yield replace(arm, is_default=is_default)
    if not is_known:
        options = {name: getattr(model, name) for name in ("strategy", "alpha", "adapter")}
        name = f"{'title + ' if with_title else ''}default"
        yield Arm(name, options, with_title=with_title, is_default=True)


def choose_arms(arms: Sequence[Arm], names: Sequence[str]) -> list[Arm]:
    """Keep the named arms, and isolated chunks, with which all are compared.

    Args:
        arms: To choose from.
        names: Spaces and upper case do not matter.

    Raises:
        InputError: There is no arm of that name.
    """
    known = {_squeeze(arm.name): arm for arm in arms}
    wanted = {_squeeze(name) for name in names if name.strip()}
    if unknown := sorted(wanted - known.keys()):
        raise InputError(
            f"there is no arm {unknown[0]!r}; expected some of: {', '.join(arm.name for arm in arms)}"
        )
    return [arm for key, arm in known.items() if key in wanted or arm.name == ISOLATED]


def _squeeze(name: str) -> str:
    return "".join(name.split()).casefold()
