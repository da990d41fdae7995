"""Arms as data: a name, and the options of `ContextualEmbedding` that it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rag_embed.errors import InputError
from rag_embed.evaluation.vectors import with_options
from rag_embed.fusion import Fusion
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.llamaindex.rerank import DENSE_WEIGHT, HYBRID_WEIGHT
from rag_embed.modes import ALPHA

ISOLATED = "isolated"
TITLED = "title + isolated"
BM25 = "bm25"
WORDS = " + words"
LATE_INTERACTION = " + late interaction"
ALPHAS = (ALPHA,)


_METHODS = {
    "vectors": "search by meaning alone",
    "bm25": "search by words alone, which needs no model",
    "hybrid": "search by words and meaning together",
}
_READINGS = {
    "isolated": "without context",
    "late": "each chunk read once, inside its document",
    "blend": "each chunk read twice, inside its document and alone",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to search.

    Attributes:
        name: "title + blend 0.6 + words + late interaction".
        options: Of `ContextualEmbedding`; what is not among them is as the evaluated model has it.
        method: How the first stage finds chunks: by vectors, by words, or by both.
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
        """How often the text is read while indexing; a blend's readings may share their lower layers."""
        if self.method == "bm25":
            return 0
        return 2 if self.options["strategy"] == "blend" else 1

    @property
    def rerank_weight(self) -> float:
        """Share of late interaction that `ListwiseRerank` gives it behind this first stage."""
        return HYBRID_WEIGHT if self.method == "hybrid" else DENSE_WEIGHT

    @property
    def effort(self) -> tuple[bool, int, bool, bool, bool]:
        """What grows with the cost of an arm, the dearest first.

        Token vectors take most bytes and a second look at each result; then come passes over the text; then
        that a chunk has to be read again whenever its document changes; words and titles cost least.
        """
        return (
            self.is_reranked,
            self.passes,
            self.is_contextual,
            self.method == "hybrid",
            self.with_title,
        )

    @property
    def advice(self) -> str:
        """What the arm does, in words for people: "search by words and meaning together, without context"."""
        parts = [_METHODS[self.method]]
        if self.with_title:
            parts.append("with the title in front of each chunk")
        if self.method != "bm25":
            parts.append(_READINGS.get(self.options["strategy"], "each chunk read inside its document"))
        advice = ", ".join(parts)
        if self.is_reranked:
            advice += f", and rerank with weight {f'{self.rerank_weight:g}'.removeprefix('0')}"
        return advice

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
    """List all arms: BM25, isolated, late and blends; with an adapter; with words; with titles; reranked.

    Words stand beside isolated chunks, and beside context that was read with the adapter if there is one.
    Late interaction needs token vectors, which isolated chunks come without.

    Args:
        model: Its own strategy and adapter are the arm marked as default; if no other arm has them, it is
            one of its own.
        has_titles: Whether documents have titles that may be used.
        adapter: A shipped adapter's name or a folder, for arms of its own; by default the model's.
        alphas: Shares of the contextual vector in the blends.
        with_rerank: Whether each contextual arm is there a second time, reranked.
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
    return [each for arm in arms for each in ((arm, add_rerank(arm)) if arm.is_contextual else (arm,))]


def add_rerank(arm: Arm) -> Arm:
    """Make the same arm, its results reordered by late interaction."""
    return replace(arm, name=f"{arm.name}{LATE_INTERACTION}", is_reranked=True, is_default=False)


def find_recommended(arms: Sequence[Arm]) -> Arm | None:
    """Find the arm that the package recommends: words, one pass, titles, and a reranker if one is compared.

    Returns:
        None if no arm mixes scores.
    """
    mixed = [arm for arm in arms if arm.method == "hybrid" or arm.is_reranked]

    def rank(arm: Arm) -> tuple[bool, ...]:
        options = arm.options
        has_adapter = options.get("adapter", "auto") is not None
        is_once = options["strategy"] == "late"
        return arm.method == "hybrid", is_once, has_adapter, arm.with_title, arm.is_reranked

    return max(mixed, key=rank, default=None)


def _basic_arms(adapter: str | None, alphas: Sequence[float]) -> Iterator[Arm]:
    isolated = Arm(ISOLATED, {"adapter": None, "strategy": "isolated"})
    yield replace(isolated, name=BM25, method="bm25")
    yield isolated
    yield _add_words(isolated)
    for late, blend, used in (("late", "blend", None), ("adapter", "adapter blend", adapter)):
        if late == "late" or adapter is not None:
            arms = [Arm(late, {"adapter": used, "strategy": "late"})]
            for alpha in alphas:
                options = {"adapter": used, "strategy": "blend", "alpha": alpha}
                arms.append(Arm(f"{blend} {alpha:g}", options))
            for arm in arms:
                yield arm
                if used == adapter:
                    yield _add_words(arm)


def _add_words(arm: Arm) -> Arm:
    return replace(arm, name=f"{arm.name}{WORDS}", method="hybrid")


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
