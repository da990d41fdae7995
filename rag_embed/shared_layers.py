"""Chunks read alone and in their window in one pass, whose lower layers both readings share.

Every chunk is a text of its own, with special tokens and positions as if it were alone. Up to a layer its
tokens attend to nothing else. From there on it is read twice: on alone, by the untouched weights, and with
the head and the chunks of its window, by an adapter's. MacAvaney et al. 2020, "Efficient Document
Re-Ranking for Transformers by Precomputing Term Representations", arXiv:2004.14255, section 3, split the
layers of a cross-encoder between query and document like this. Differs in: chunks of one document take the
place of query and document, and the reading that goes on alone is kept as the isolated vector.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.adapter import Adapter, merge_adapter
from rag_embed.encoder import Encoder
from rag_embed.errors import UnsupportedModelError
from rag_embed.packed_attention import fill_pass, group_passes

TokenIds: TypeAlias = Int[np.ndarray, " _"]
WindowTexts: TypeAlias = Sequence[TokenIds]
"""The texts of one window, special tokens included."""


@dataclass(frozen=True, slots=True)
class TwoReadings:
    """States of one text's tokens, special ones included.

    Attributes:
        alone: As if nothing else were there.
        in_context: In its window.
    """

    alone: Float[Tensor, "tokens dim"]
    in_context: Float[Tensor, "tokens dim"]


class SharedLayers:
    """An encoder that reads chunks both ways.

    Args:
        encoder: Its weights read alone; they are shared, not copied.
        upper: Layers that read windows, in the place of as many of the encoder's; it shares those below.

    Attributes:
        encoder: As given; it counts the passes too, and each token once.

    Raises:
        UnsupportedModelError: The encoder is not built like BERT, or has no layer below these.
    """

    def __init__(self, encoder: Encoder, upper: Sequence[torch.nn.Module]) -> None:
        self.encoder = encoder
        model = encoder.trainable_model()
        layers = layers_of(model, name=encoder.profile.name)
        if not 0 < len(upper) < len(layers):
            raise UnsupportedModelError(
                f"{len(upper)} of {len(layers)} layers of {encoder.profile.name} read windows; expected at "
                "least one that does, and one below that is shared"
            )
        count = len(layers) - len(upper)
        self._embeddings = model.get_submodule("embeddings")
        self._lower, self._upper_alone, self._upper = layers[:count], layers[count:], list(upper)

    @property
    def upper_count(self) -> int:
        """Layers that run twice, once for each reading."""
        return len(self._upper)

    def encode(
        self, windows: Iterable[WindowTexts], *, pass_tokens: int | None = None
    ) -> Iterator[list[TwoReadings]]:
        """Compute the states of the texts of windows, both ways, in passes of at most `batch_tokens`.

        Args:
            windows: None with a text that is longer than the encoder reads. Read lazily.
            pass_tokens: Makes every pass exactly so long, so that a window's states have the same bits in any
                company (`Encoder.encode`).

        Yields:
            For each window, in order, the two readings of each of its texts.

        Raises:
            NonFiniteError: A state is NaN or infinite.
        """
        sized = ((window, sum(map(len, window))) for window in windows)
        for batch, size in group_passes(sized, pass_tokens or self.encoder.batch_tokens):
            yield from self._encode(batch, (pass_tokens or size) - size)

    @torch.inference_mode()
    def _encode(self, windows: Sequence[WindowTexts], filler_tokens: int) -> list[list[TwoReadings]]:
        filled = [*windows, *([filler] for filler in fill_pass(filler_tokens))]
        with self.encoder.computing():
            self.encoder.forward_count += 1
            self.encoder.token_count += sum(len(text) for window in filled for text in window)
            readings = self.forward(filled)
        self.encoder.refuse_non_finite(
            [each for window in readings for text in window for each in (text.alone, text.in_context)]
        )
        return readings[: len(windows)]

    def forward(self, windows: Sequence[WindowTexts]) -> list[list[TwoReadings]]:
        """Read windows in one pass, with gradients where they are enabled; unchecked: for training."""
        texts = [text for window in windows for text in window]
        lengths = [len(text) for text in texts]
        states = self._embeddings(**self.encoder.pack(texts))
        for layer in self._lower:
            states = layer(states, text_lengths=lengths)
        alone, in_context = states, states
        for layer in self._upper_alone:
            alone = layer(alone, text_lengths=lengths)
        window_lengths = [sum(map(len, window)) for window in windows]
        for layer in self._upper:
            in_context = layer(in_context, text_lengths=window_lengths)
        halves = zip(alone[0].split(lengths), in_context[0].split(lengths), strict=True)
        readings = iter([TwoReadings(*each) for each in halves])
        return [[next(readings) for _ in window] for window in windows]


def share_layers(encoder: Encoder, adapter: Adapter) -> SharedLayers:
    """Make what reads both ways of an encoder and an adapter of its upper layers.

    Raises:
        UnsupportedModelError: The adapter does not fit the encoder, or shares no layer.
    """
    model = copy.deepcopy(encoder.trainable_model())
    merge_adapter(model, adapter, weights_sha256=encoder.profile.weights_sha256)
    return SharedLayers(encoder, layers_of(model, name=encoder.profile.name)[adapter.shared_layers :])


def layers_of(model: torch.nn.Module, *, name: str) -> list[torch.nn.Module]:
    """The layers of a model, from the lowest on.

    Args:
        model: Built like BERT: embeddings, and `encoder.layer`.
        name: For the message.

    Raises:
        UnsupportedModelError: It is built otherwise.
    """
    try:
        return list(model.get_submodule("encoder.layer").children())
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{name} is a {type(model).__name__}, whose layers cannot be run one by one; expected a model "
            "that is built like BERT. Use an adapter that shares no layers"
        ) from error
