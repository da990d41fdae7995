"""text-embeddings-inference: it takes text alone, so each text is first shown to be read as the same tokens.

The wire is that of its router: `POST /embed_all` gives the states of all tokens, not pooled and not
normalised; `POST /tokenize` says which tokens a text becomes. Ids that are sent to it are decoded and
tokenised again, so they would be no surer than text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from rag_embed.errors import EncoderAnswerError, UnsupportedModelError
from rag_embed.served.connection import Connection
from rag_embed.served.vllm import to_matrix
from rag_embed.text_tokenizer import TextTokenizer

REMEDY = "start it with `--dtype float32` on a folder of `rag-embed export`"


class TeiWire:
    """Speaks to one text-embeddings-inference server.

    Args:
        connection: To it.
        tokenizer: Ours, which turns ids back into text.
    """

    remedy = REMEDY

    def __init__(self, connection: Connection, tokenizer: TextTokenizer) -> None:
        self._connection = connection
        self._tokenizer = tokenizer

    def ask(self, sequences: Sequence[Int[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ dim"]]:
        """Get the states of whole sequences, special tokens included, in the given order.

        Raises:
            UnsupportedModelError: The server would read other tokens than these.
            EncoderAnswerError: The answer is not one matrix of states for each sequence.
        """
        texts = [self._to_text(ids) for ids in sequences]
        read = self._connection.post("/tokenize", {"inputs": texts, "add_special_tokens": True})
        for ids, text, tokens in zip(
            sequences, texts, self._check_list(read, "/tokenize", texts), strict=True
        ):
            try:
                found = [int(token["id"]) for token in tokens]
            except (KeyError, TypeError, ValueError) as error:
                raise EncoderAnswerError(
                    f"{self._connection.url}/tokenize answered without the ids of tokens; expected "
                    "text-embeddings-inference's answer. Check url and engine"
                ) from error
            if found != ids.tolist():
                raise self._refuse(ids, text, found)
        answer = self._connection.post("/embed_all", {"inputs": texts, "truncate": False})
        try:
            return [to_matrix(states) for states in self._check_list(answer, "/embed_all", texts)]
        except (ValueError, TypeError) as error:
            raise EncoderAnswerError(
                f"{self._connection.url}/embed_all answered with states that are no matrix ({error}); "
                "expected one state for each token. The answer was cut, or it serves another kind of model"
            ) from error

    def _to_text(self, ids: Int[np.ndarray, " _"]) -> str:
        """The text of a sequence without the special tokens, which the server puts around it itself."""
        first, last = len(self._tokenizer.prefix_ids), len(ids) - len(self._tokenizer.suffix_ids)
        whole = [*self._tokenizer.prefix_ids, *ids[first:last], *self._tokenizer.suffix_ids]
        if first > last or whole != ids.tolist():
            raise UnsupportedModelError(
                "a prompt of special tokens cannot be sent to text-embeddings-inference, which takes text "
                "and adds its own; expected engine='vllm' for this, which takes tokens"
            )
        return self._tokenizer.decode(ids[first:last])

    def _check_list(self, answer: object, path: str, texts: Sequence[str]) -> list[Any]:
        if not isinstance(answer, list) or len(answer) != len(texts):
            size = f"{len(answer)} entries" if isinstance(answer, list) else type(answer).__name__
            raise EncoderAnswerError(
                f"{self._connection.url}{path} answered {len(texts)} texts with {size}; expected one entry "
                "for each. The answer was cut, or another program answers there: check url and engine"
            )
        return answer

    def _refuse(self, ids: Int[np.ndarray, " _"], text: str, found: Sequence[int]) -> UnsupportedModelError:
        longest = min(len(ids), len(found))
        place = next((i for i in range(longest) if ids[i] != found[i]), longest)
        return UnsupportedModelError(
            f"{self._connection.url} reads {text[:60]!r} as {len(found)} tokens that differ from ours, "
            f"{len(ids)}, at position {place}; expected the same, or vectors would be of other texts. A "
            "window that begins within a word cannot be sent as text: use engine='vllm', which takes tokens, "
            "or windows that hold the whole document. If it is so with every text, another model is served"
        )
