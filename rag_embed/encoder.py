"""The one encoder: batches token sequences by a budget of tokens and yields their states.

Texts of a batch are packed one behind the other instead of padded to one length: the linear layers see real
tokens only, and attention runs text by text (`packed_attention.py`). So no position is ever computed for
nothing, there is no mask to get wrong, and a text's states do not depend on its neighbours in the batch.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.adapter import Adapter, merge_adapter
from rag_embed.checkpoint import load_checkpoint
from rag_embed.devices import pick_batch_tokens
from rag_embed.errors import NonFiniteError, UnsupportedModelError
from rag_embed.guards import Guard, check_dtype
from rag_embed.packed_attention import fill_pass, group_passes
from rag_embed.profiles import Profile
from rag_embed.tokens import Tokens, surround


class Encoder:
    """A loaded checkpoint. Use `load_encoder`, which shares one between all who ask for the same.

    Args:
        profile: The checkpoint and how it is used.
        adapter: What is merged into its weights.
        device: Where the model runs.
        dtype: Precision of its weights and states.
        batch_tokens: Most tokens in one forward pass over several texts; None is what suits the device.
        insist: Guards that are lifted, see `guards.py`.

    Attributes:
        forward_count: Forward passes since loading.
        token_count: Tokens computed since loading, special tokens included.
        scored_tokens: Which tokens are compared, in a model that was trained for it; else None.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_tokens: int | None = None,
        adapter: Adapter | None = None,
        insist: Collection[Guard] = (),
    ) -> None:
        check_dtype(profile, str(dtype).removeprefix("torch."), insist)
        self.profile = profile
        self.adapter = adapter
        self.insist: Collection[Guard] = frozenset(insist)
        self.device = device
        self.dtype = dtype
        self.batch_tokens = batch_tokens or pick_batch_tokens(device)
        self.forward_count = 0
        self.token_count = 0
        self._lock = threading.Lock()
        checkpoint = load_checkpoint(profile, device, dtype)
        self._model, self._tokenizer = checkpoint.model, checkpoint.tokenizer
        self._head, self.scored_tokens = checkpoint.head, checkpoint.scored_tokens
        if adapter is not None:
            merge_adapter(self._model, adapter, weights_sha256=profile.weights_sha256)
        self.prefix_ids = self._tokenizer.prefix_ids
        self.suffix_ids = self._tokenizer.suffix_ids
        self._try_out()

    def share(self, *, batch_tokens: int, insist: Collection[Guard]) -> Encoder:
        """Make another encoder of the same weights, which takes no memory of its own."""
        check_dtype(self.profile, str(self.dtype).removeprefix("torch."), insist)
        other = copy.copy(self)
        other.batch_tokens, other.insist = batch_tokens, frozenset(insist)
        other.forward_count = other.token_count = 0
        return other

    def renew_lock(self) -> None:
        """Forget who holds the encoder: after a fork, nobody who could let go of it."""
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """Size of a token state; with a head behind the model, of the token vector that stands for it."""
        return self.profile.dim

    @property
    def max_tokens(self) -> int:
        """Most tokens in one forward pass, special tokens included."""
        return self.profile.max_tokens

    @property
    def capacity(self) -> int:
        """Most tokens of a text in one forward pass, special tokens not included."""
        return self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids)

    @property
    def shared_pass_tokens(self) -> int:
        """Length of the passes that short texts share: one size per device, whatever `batch_tokens` is.

        0 where none are shared: texts that are not packed are stacked, and the stack's height changes bits.
        """
        return pick_batch_tokens(self.device) // 4 if self.profile.is_packable else 0

    @property
    def batches_documents(self) -> bool:
        """Whether documents of any length share passes, at the price of their last bits: on accelerators."""
        return self.device.type != "cpu"

    def tokenize(self, text: str) -> Tokens:
        """Tokenise a whole text of any length, without special tokens.

        Special tokens spelled out in the text, such as "[SEP]", are read as ordinary characters.
        """
        return self._tokenizer.tokenize(text)

    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise several texts, on all cores."""
        return self._tokenizer.tokenize_all(texts)

    def tokenize_template(self, template: str, **fields: str) -> Int[np.ndarray, " tokens"]:
        """Tokenise a text of ours, in which special tokens that are spelled out are meant as such.

        Args:
            template: May hold `{name}` for each field.
            **fields: What is filled in; special tokens spelled out there are ordinary characters.
        """
        return self._tokenizer.tokenize_template(template, **fields)

    def encode(
        self,
        sequences: Iterable[Int[np.ndarray, " _"]],
        *,
        adds_special_tokens: bool = True,
        pass_tokens: int | None = None,
        unseen_tokens: int = 0,
    ) -> Iterator[Float[Tensor, "_ dim"]]:
        """Compute the last-layer states of token sequences, in batches of at most `batch_tokens`.

        Args:
            sequences: Vocabulary ids without special tokens, none longer than `capacity`. Read lazily, so a
                stream of any length takes the memory of one batch.
            adds_special_tokens: Whether prefix and suffix are put around each; else the sequences are whole.
            pass_tokens: Makes every pass exactly so long, by tokens behind the texts that nobody sees. The
                last bits of a matrix product depend on how many rows it has and not on the row, so a text's
                states are then the same in any company, bit by bit.
            unseen_tokens: So many tokens at the end of each sequence see the others and are not seen.

        Yields:
            For each sequence, in order, the states of prefix, tokens and suffix, on the encoder's device. In
            a model with a head they have gone through it and are unit vectors.

        Raises:
            ContextOverflowError: A sequence is longer than `capacity`.
            NonFiniteError: A state is NaN or infinite.
        """
        prefix, suffix = (self.prefix_ids, self.suffix_ids) if adds_special_tokens else ([], [])
        whole = surround(sequences, prefix, suffix, max_tokens=self.max_tokens, name=self.profile.name)
        sized = ((ids, len(ids)) for ids in whole)
        for batch, size in group_passes(sized, pass_tokens or self.batch_tokens):
            yield from self._forward(batch, (pass_tokens or size) - size, unseen_tokens)

    @torch.inference_mode()
    def _forward(
        self, texts: Sequence[Int[np.ndarray, " _"]], filler_tokens: int, unseen_tokens: int
    ) -> list[Float[Tensor, "_ dim"]]:
        batch = [*texts, *fill_pass(filler_tokens)]
        with self.computing():
            self.token_count += sum(map(len, batch))
            states = self.forward(batch, unseen_tokens=unseen_tokens)
        self.refuse_non_finite(states)
        return states[: len(texts)]

    def computing(self) -> AbstractContextManager[object]:
        """Hold the weights, which serve one pass at a time."""
        return self._lock

    def refuse_non_finite(self, states: Sequence[Float[Tensor, "_ dim"]]) -> None:
        """Check what a pass gave.

        Raises:
            NonFiniteError: A state is NaN or infinite.
        """
        # A sum is finite only if all its terms are, and costs less than asking each.
        if not bool(torch.stack([state.sum(dtype=torch.float32) for state in states]).isfinite().all()):
            raise NonFiniteError(
                f"{self.profile.name} in {self.dtype} on {self.device} returned NaN or infinite token "
                "states; expected finite numbers. In float16 this is an overflow: use dtype='float32' or "
                "'bfloat16'"
            )

    def forward(
        self, batch: Sequence[Int[np.ndarray, " _"]], *, unseen_tokens: int = 0
    ) -> list[Float[Tensor, "_ dim"]]:
        """Run the model once over whole sequences, special tokens included, and its head if there is one.

        Unchecked and with gradients where they are enabled: for training. Use `encode` for all else.
        """
        forward = self._forward_packed if self.profile.is_packable else self._forward_by_length
        return forward(batch, unseen_tokens)

    def trainable_model(self) -> torch.nn.Module:
        """The model itself, all weights frozen: what training puts an adapter on."""
        model: torch.nn.Module = self._model.requires_grad_(False)
        return model

    def _try_out(self) -> None:
        """Read one letter, so that a model whose parts do not fit fails now, not inside an index."""
        if self.capacity < 1:
            raise UnsupportedModelError(
                f"{self.profile.name} reads {self.max_tokens} tokens at once, of which "
                f"{self.max_tokens - self.capacity} are special; expected room for a text. "
                "Its config.json is damaged"
            )
        ids = [*self.prefix_ids, *self._tokenizer.tokenize("a").ids.tolist(), *self.suffix_ids]
        try:
            with torch.inference_mode():
                (states,) = self.forward([np.array(ids[: self.max_tokens], dtype=np.int64)])
        except Exception as error:
            raise UnsupportedModelError(
                f"{self.profile.name} cannot read the letter 'a' ({type(error).__name__}: "
                f"{str(error)[:300]}); expected weights, config.json and tokenizer of one model"
            ) from error
        if states.shape[1] != self.dim:
            raise UnsupportedModelError(
                f"the states of {self.profile.name} have {states.shape[1]} dimensions, config.json says "
                f"{self.dim}; expected weights and config.json of one model"
            )
        self.forward_count = 0

    def pack(self, batch: Sequence[Int[np.ndarray, " _"]]) -> dict[str, Int[Tensor, "1 tokens"]]:
        """Texts one behind the other, as the model takes them: ids, and positions that begin anew."""
        first = self.profile.first_position
        positions = np.concatenate([np.arange(first, first + len(ids)) for ids in batch])
        return {
            "input_ids": self._send(np.concatenate(batch))[None],
            "position_ids": self._send(positions)[None],
        }

    def _send(self, ids: Int[np.ndarray, "..."]) -> Int[Tensor, "..."]:
        """Copy to the device; from pinned memory, where the processor goes on meanwhile."""
        tensor = torch.from_numpy(ids)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _project(self, token_states: Float[Tensor, "... _"]) -> Float[Tensor, "... dim"]:
        return token_states if self._head is None else self._head(token_states)

    def _forward_packed(
        self, batch: Sequence[Int[np.ndarray, " _"]], unseen_tokens: int
    ) -> list[Float[Tensor, "_ dim"]]:
        lengths = [len(ids) for ids in batch]
        self.forward_count += 1
        output = self._model(
            **self.pack(batch),
            text_lengths=lengths,
            unseen_tokens=unseen_tokens,
        )
        return list(self._project(output.last_hidden_state[0]).split(lengths))

    def _forward_by_length(
        self, batch: Sequence[Int[np.ndarray, " _"]], unseen_tokens: int
    ) -> list[Float[Tensor, "_ dim"]]:
        """One pass per length in the batch: needs neither padding nor a mask, whatever the architecture."""
        order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
        states: dict[int, Float[Tensor, "_ dim"]] = {}
        for _, same_length in groupby(order, key=lambda index: len(batch[index])):
            members = list(same_length)
            ids = self._send(np.stack([batch[index] for index in members]))
            is_seen = torch.ones_like(ids)
            is_seen[:, ids.shape[1] - unseen_tokens :] = 0
            self.forward_count += 1
            output = self._model(input_ids=ids, attention_mask=is_seen)
            states.update(zip(members, self._project(output.last_hidden_state), strict=True))
        return [states[index] for index in range(len(batch))]
