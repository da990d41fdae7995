"""A model family: what is known of how its checkpoints were trained, which their files do not always say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rag_embed.modes import Pooling, Precision


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of a family of checkpoints. What a checkpoint's own files declare goes before it.

    Attributes:
        name: Short name.
        example: Ids on the Hugging Face hub.
        architectures: transformers' `model_type`, or the name of an own module (`jina-bert`).
        names: Pattern that a name of the checkpoint contains (its id, `_name_or_path`, or a class in
            `auto_map`); empty if the architecture tells enough.
        dims: Sizes of the vectors of its published checkpoints.
        max_tokens: Most tokens that it was trained to read, whatever position table or tokenizer allow.
        licence: Of the published weights.
        tested: How it is tested here.
        pooling: Which token states make the vector of one text.
        is_causal: Whether a token attends to earlier tokens only.
        query_prefix: Put before queries.
        document_prefix: Put before documents and chunks.
        matryoshka_dims: Sizes to which its vectors were trained to be cut; empty if they were not.
        precisions: Forms of a vector that it was trained for.
        separator: Token between the chunks of a document, for models that embed them together.
        is_unit_length: Whether its own vectors are normalised.
        is_float16_safe: Whether its states stay inside float16.
        end_token: Token behind every text, which its tokenizer does not always add.
        list_prompt: Name of the list prompt that it was trained with.
        known_modules: Modules behind its pooling whose code stays on the hub because ours does the same.
        note: What a user should know besides.
    """

    name: str
    example: str
    architectures: tuple[str, ...]
    names: str
    dims: tuple[int, ...]
    max_tokens: int
    licence: str
    tested: str
    pooling: Pooling = "mean"
    is_causal: bool = False
    query_prefix: str = ""
    document_prefix: str = ""
    matryoshka_dims: tuple[int, ...] = ()
    precisions: tuple[Precision, ...] = ("float",)
    separator: str = ""
    is_unit_length: bool = True
    is_float16_safe: bool = True
    end_token: str = ""
    list_prompt: Literal["", "e2rank"] = ""
    known_modules: tuple[str, ...] = ()
    note: str = ""

    @property
    def allows_late_chunking(self) -> bool:
        """Whether averaging a chunk's token states out of its document is near what it was trained for."""
        return self.pooling == "mean" and not self.is_causal and not self.separator
