"""vLLM's pooling API: token ids in, the states of exactly these tokens out.

The wire is that of `vllm serve --runner pooling`: vLLM's entrypoints/pooling (0.20 and later name the switch
of normalisation `use_activation`; a server that does not know it is found out by the probe).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from rag_embed.errors import EncoderAnswerError
from rag_embed.served.connection import Connection

REMEDY = (
    'start it with `--runner pooling --pooler-config \'{"task": "token_embed", "use_activation": false}\' '
    "--dtype float32` on a folder of `rag-embed export`"
)


class VllmWire:
    """Speaks to one vLLM server.

    Args:
        connection: To it.
        dim: Size of a token state.

    Raises:
        EncoderAnswerError: It names no model.
    """

    remedy = REMEDY

    def __init__(self, connection: Connection, dim: int) -> None:
        self._connection = connection
        self._dim = dim
        listed = connection.get("/v1/models")
        try:
            self._model = str(listed["data"][0]["id"])  # the checkpoint itself; LoRA modules come behind it
        except (KeyError, IndexError, TypeError) as error:
            raise EncoderAnswerError(
                f"{connection.url}/v1/models names no model; expected vLLM's list of models. Check url "
                "and engine"
            ) from error

    def ask(self, sequences: Sequence[Int[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ dim"]]:
        """Get the states of whole sequences, special tokens included, in the given order.

        Raises:
            EncoderAnswerError: The answer is not one matrix of states for each sequence.
        """
        body = {
            "model": self._model,
            "input": [ids.tolist() for ids in sequences],
            "task": "token_embed",
            "add_special_tokens": False,
            "use_activation": False,
            "encoding_format": "base64",
            "embed_dtype": "float32",
            "endianness": "little",
        }
        answer = self._connection.post("/pooling", body)
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise EncoderAnswerError(
                f"{self._connection.url}/pooling answered without a list 'data'; expected vLLM's pooling "
                "answer. Check url and engine"
            )
        indexed = {row.get("index"): row.get("data") for row in rows}
        if set(indexed) != set(range(len(sequences))) or len(rows) != len(sequences):
            raise EncoderAnswerError(
                f"{self._connection.url}/pooling answered with indices {sorted(map(str, indexed))} for "
                f"{len(sequences)} sequences; expected each of them once. The answer was cut, or belongs to "
                "another request"
            )
        return [self._to_states(indexed[index]) for index in range(len(sequences))]

    def _to_states(self, data: Any) -> Float32[np.ndarray, "_ dim"]:
        """Decode one matrix, as base64 of little-endian float32 or as nested lists."""
        try:
            if isinstance(data, str):
                flat = np.frombuffer(base64.b64decode(data, validate=True), dtype="<f4")
                return flat.astype(np.float32).reshape(-1, self._dim)  # a copy, which torch may write to
            return to_matrix(data)
        except (ValueError, TypeError) as error:
            raise EncoderAnswerError(
                f"{self._connection.url}/pooling answered with states that are no matrix of {self._dim} "
                f"columns ({error}); expected one state for each token. It serves another model, pools the "
                f"tokens, or the answer was cut: {REMEDY}"
            ) from error


def to_matrix(data: Any) -> Float32[np.ndarray, "_ dim"]:
    """Make a matrix of nested lists of numbers.

    Raises:
        ValueError: Its rows differ in length, or it has not two dimensions.
    """
    matrix = np.array(data, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"it has {matrix.ndim} dimensions")
    return matrix
