"""Prefixes that are a token of their own, such as ColBERT's "[Q] " and "[unused0]"."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer

from rag_embed.errors import UnsupportedModelError
from rag_embed.profiles import Profile


def find_markers(profile: Profile, backend: Tokenizer) -> tuple[str, ...]:
    """Find what the prefixes of a multi-vector model begin with, and let the tokenizer know it as one token.

    Args:
        profile: Of the checkpoint.
        backend: Its tokenizer, as it was loaded; reads special tokens that a text spells out as such.

    Returns:
        The markers, which are read as one token at the beginning of a text. One that the tokenizer counts as
        special is read so there only: a document that spells it out elsewhere means its characters.

    Raises:
        UnsupportedModelError: A prefix is not cut at the marker as the model was trained.
    """
    if profile.multi_vector is None:
        return ()
    prefixes = [prefix for prefix in (profile.query_prefix, profile.document_prefix) if prefix.split()]
    for prefix in profile.multi_vector.marker_prefixes:
        if prefix.split():
            _register(prefix, backend)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    markers = [
        token
        for token in sorted(added, key=lambda token: (-len(token), token))
        if any(prefix.startswith(token) for prefix in prefixes) and _is_one_token(token, backend)
    ]
    _check_prefixes(profile, backend, prefixes, markers)
    return tuple(markers)


def _register(prefix: str, backend: Tokenizer) -> None:
    """Make one token of a prefix, or of its first word, if the vocabulary has it and it would be cut."""
    for marker in (prefix, prefix.split(maxsplit=1)[0]):
        if backend.token_to_id(marker) is not None:
            if not _is_one_token(marker, backend):
                backend.add_special_tokens([AddedToken(marker, normalized=False, special=True)])
            return


def _is_one_token(text: str, backend: Tokenizer) -> bool:
    return bool(backend.encode(text, add_special_tokens=False).tokens == [text])


def _check_prefixes(
    profile: Profile, backend: Tokenizer, prefixes: Sequence[str], markers: Sequence[str]
) -> None:
    """Compare what the tokenizer makes of a prefix with marker and rest cut apart."""
    for prefix in prefixes:
        marker = next((each for each in markers if prefix.startswith(each)), "")
        text = prefix + "a"
        whole = backend.encode(text, add_special_tokens=False).ids
        first = [backend.token_to_id(marker)] if marker else []
        backend.encode_special_tokens = True
        apart = first + backend.encode(text[len(marker) :], add_special_tokens=False).ids
        backend.encode_special_tokens = False
        if whole != apart:
            raise UnsupportedModelError(
                f"the tokenizer of {profile.name} reads the prefix {prefix!r} as tokens {whole}, and as "
                f"{apart} where the text behind it is read by itself; expected the same. Tokenizers that "
                "treat the first word of a text differently are not supported with such a prefix"
            )
