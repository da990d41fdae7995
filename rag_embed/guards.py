"""What a model was not trained for and would do badly in silence: refused, with the reason.

A user who knows better may insist: `insist` names the guards that are lifted. Whatever is lifted, nothing is
cut and no number that is not finite reaches a vector.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from rag_embed.errors import InputError, UnsupportedModelError
from rag_embed.profiles import Profile
from rag_embed.vector_form import VectorForm

Guard = Literal["late", "dim", "precision", "float16", "prefix"]
Side = Literal["query", "document"]


def check_late(profile: Profile, insist: Collection[Guard]) -> None:
    """Refuse late chunking where a chunk's mean state is not what the model was trained to give."""
    if "late" in insist or profile.allows_late_chunking:
        return
    if profile.separator:
        reason = "was trained on chunks joined by its separator; use strategy='native'"
    elif profile.is_causal and profile.multi_vector is not None:
        reason = (
            "attends to earlier tokens only, so a chunk would know nothing of what follows it; use "
            "strategy='isolated'"
        )
    elif profile.is_causal:
        reason = (
            "attends to earlier tokens only and speaks through the last one, so a chunk's mean would know "
            "nothing of what follows it; use strategy='isolated'"
        )
    else:
        reason = (
            f"was trained with {profile.pooling} pooling, and the mean of a chunk's states is no vector of "
            "its space; use strategy='isolated'"
        )
    raise UnsupportedModelError(
        f"{profile.name} cannot be used for late chunking: it {reason}, or insist=['late'] to try nonetheless"
    )


def compares_tokens(profile: Profile, insist: Collection[Guard]) -> bool:
    """Whether token states by themselves say something: more than their mean, or one of them, was trained."""
    return profile.multi_vector is not None or "late" in insist or profile.allows_late_chunking


def check_late_interaction(profile: Profile, insist: Collection[Guard]) -> None:
    """Refuse to compare token states where only their mean, or one of them, was trained to say something."""
    if not compares_tokens(profile, insist):
        raise UnsupportedModelError(
            f"{profile.name} ({profile.family.name}) cannot be used for late interaction: it was trained "
            f"with {profile.pooling} pooling, and its tokens' states were not trained to be compared; leave "
            "out tokens=, or insist=['late'] to try nonetheless"
        )


def check_native(profile: Profile) -> None:
    """Refuse the native strategy where there is none."""
    if not profile.separator:
        raise UnsupportedModelError(
            f"{profile.name} ({profile.family.name}) was trained to embed each text alone and has no native "
            "way to embed the chunks of a document together; use strategy='isolated'"
            + (", 'late' or 'blend'" if profile.allows_late_chunking else "")
        )


def check_list_prompt(profile: Profile) -> None:
    """Refuse a list prompt where none was trained."""
    if not profile.has_list_prompt:
        raise UnsupportedModelError(
            f"{profile.name} ({profile.family.name}) was trained for no list prompt; use "
            "method='late_interaction', which every encoder with mean pooling can do"
        )


def check_form(profile: Profile, form: VectorForm, insist: Collection[Guard]) -> None:
    """Refuse a shorter or coarser vector than the model was trained for."""
    trained = [dim for dim in profile.family.matryoshka_dims if dim <= profile.dim]
    if form.dim not in {None, profile.dim} and "dim" not in insist:
        if not trained:
            raise UnsupportedModelError(
                f"{profile.name} ({profile.family.name}) was not trained for shorter vectors (Matryoshka), "
                f"and dim={form.dim} would cut away meaning; use all {profile.dim} dimensions, or "
                "insist=['dim'] to measure what it costs"
            )
        if form.dim is not None and form.dim < trained[0]:
            raise UnsupportedModelError(
                f"{profile.name} was trained for vectors of {trained[0]} dimensions and more, not for "
                f"dim={form.dim}; use one of {trained}, or insist=['dim']"
            )
    if form.precision not in profile.precisions and "precision" not in insist:
        raise UnsupportedModelError(
            f"{profile.name} ({profile.family.name}) was not trained for precision {form.precision!r}, only "
            f"for {list(profile.precisions)}; store its float vectors quantised in the collection instead, "
            "where full vectors rescore, or insist=['precision']"
        )


def check_dtype(profile: Profile, dtype: str, insist: Collection[Guard]) -> None:
    """Refuse float16 where states overflow it."""
    if dtype == "float16" and not profile.family.is_float16_safe and "float16" not in insist:
        raise UnsupportedModelError(
            f"{profile.name} ({profile.family.name}) overflows in float16 and gives NaN; use "
            "dtype='bfloat16' or 'float32', or insist=['float16']: states that are not finite are an error"
        )


def check_prefixes(
    texts: Sequence[str], *, own: str, other: str, side: Side, insist: Collection[Guard]
) -> None:
    """Refuse texts that carry a prefix already: doubled, or that of the other side.

    That a query went through the document call cannot be seen in general; where it wears the query prefix,
    it can.

    Args:
        texts: Without what will be put before them.
        own: What will be put before them.
        other: The prefix of the other side.
        side: Whose call the texts came through.
        insist: With "prefix" such texts are taken as they are.

    Raises:
        InputError: A text begins with a prefix.
    """
    if "prefix" in insist:
        return
    for text in texts:
        if own.strip() and text.startswith(own.rstrip()):
            raise InputError(
                f"the {side} {text[:40]!r} begins with the prefix {own!r}, which is put before it here; pass "
                f"the bare text, or {side}_prefix='' to write prefixes yourself"
            )
        if other.strip() and other != own and text.startswith(other.rstrip()):
            call = "embed it as a query" if side == "document" else "embed it as a document"
            raise InputError(
                f"a text with the prefix {other!r} came through the {side} call: {text[:40]!r}; {call} "
                "without its prefix, or insist=['prefix'] if the text itself begins so"
            )
