"""A checkpoint's tokenizer: texts become ids with character offsets, templates become ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from rag_embed.tokens import Tokens


class TextTokenizer:
    """Tokenises texts of any length.

    Args:
        backend: Neither cuts nor pads, and reads special tokens that a text spells out as characters.
        end_token: Stands behind every text, if the backend does not put it there itself; may be empty.
        markers: Tokens that are read as one at the beginning of a text, where a prefix stands.

    Attributes:
        prefix_ids: Special tokens before every text.
        suffix_ids: Special tokens behind every text.

    Raises:
        ValueError: The backend sees no token in the letter "a".
    """

    def __init__(self, backend: Tokenizer, *, end_token: str = "", markers: Sequence[str] = ()) -> None:
        self._backend = backend
        self._markers = {marker: backend.token_to_id(marker) for marker in markers}
        probe = backend.encode("a", add_special_tokens=True)
        if 0 not in probe.special_tokens_mask:
            raise ValueError("the tokenizer makes no token of the letter 'a'")
        first = probe.special_tokens_mask.index(0)
        last = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
        self.prefix_ids: list[int] = probe.ids[:first]
        self.suffix_ids: list[int] = probe.ids[last:]
        if end_token:
            end = self.tokenize_template(end_token).tolist()
            if self.suffix_ids[-len(end) :] != end:
                self.suffix_ids += end

    @property
    def largest_id(self) -> int:
        """The largest id that a text can have."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def tokenize(self, text: str) -> Tokens:
        """Tokenise a whole text, without the special tokens around it.

        Special tokens spelled out in the text, such as "[SEP]", are read as ordinary characters; only a
        marker at its beginning is one token.
        """
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise several texts, on all cores."""
        marked = [next((each for each in self._markers if text.startswith(each)), "") for text in texts]
        bare = [text[len(marker) :] for text, marker in zip(texts, marked, strict=True)]
        encodings = self._backend.encode_batch(bare, add_special_tokens=False)
        result = []
        for encoding, marker in zip(encodings, marked, strict=True):
            ids = np.array(encoding.ids, dtype=np.int64)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            if marker:
                ids = np.concatenate([[self._markers[marker]], ids])
                offsets = np.concatenate([[[0, len(marker)]], offsets + len(marker)])
            result.append(Tokens(ids, offsets[:, 0], offsets[:, 1]))
        return result

    def decode(self, ids: Int[np.ndarray, " tokens"]) -> str:
        """A text that may be read as these tokens again, for engines that take text; check that it is."""
        text: str = self._backend.decode(ids.tolist(), skip_special_tokens=False)
        return text

    def tokenize_template(self, template: str, **fields: str) -> Int[np.ndarray, " tokens"]:
        """Tokenise a text of ours, in which special tokens that are spelled out are meant as such.

        Args:
            template: May hold `{name}` for each field.
            **fields: What is filled in; special tokens spelled out there are ordinary characters.
        """
        added = {token.content: i for i, token in self._backend.get_added_tokens_decoder().items()}
        specials = "|".join(re.escape(token) for token in sorted(added, key=len, reverse=True))
        ids: list[int] = []
        for part in re.split(f"({specials})", template) if specials else [template]:
            if part in added:
                ids.append(added[part])
            elif part:
                ids += self.tokenize(part.format(**fields) if fields else part).ids.tolist()
        return np.array(ids, dtype=np.int64)
