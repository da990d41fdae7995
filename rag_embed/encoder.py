"""The one encoder: tokenises with offsets, batches by token budget, and yields token states.

Texts of a batch are packed one behind the other instead of padded to one length: the linear layers see real
tokens only, and attention runs text by text (`checkpoint.py`). So no position is ever computed for
nothing, there is no mask to get wrong, and a text's states do not depend on its neighbours in the batch.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rag_embed.adapter import Adapter, locate_adapter, merge_adapter
from rag_embed.checkpoint import load_checkpoint
from rag_embed.devices import pick_device, pick_dtype
from rag_embed.errors import ContextOverflowError, NonFiniteError
from rag_embed.guards import Guard, check_dtype
from rag_embed.profiles import EMBEDDED_MODEL, Profile, locate_checkpoint
from rag_embed.tokens import Tokens

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Encoder:
    """A loaded checkpoint. Use `load_encoder`, which shares one between all who ask for the same.

    Args:
        profile: The checkpoint and how it is used.
        adapter: What is merged into its weights.
        device: Where the model runs.
        dtype: Precision of its weights and states.
        batch_tokens: Most tokens in one forward pass over several texts.
        insist: Guards that are lifted, see `guards.py`.

    Attributes:
        forward_count: Forward passes since loading.
        token_count: Tokens computed since loading, special tokens included.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_tokens: int = 2048,
        adapter: Adapter | None = None,
        insist: Collection[Guard] = (),
    ) -> None:
        check_dtype(profile, str(dtype).removeprefix("torch."), insist)
        self.profile = profile
        self.adapter = adapter
        self.insist: Collection[Guard] = frozenset(insist)
        self.device = device
        self.dtype = dtype
        self.batch_tokens = batch_tokens
        self.forward_count = 0
        self.token_count = 0
        self._lock = threading.Lock()
        self._model, self._tokenizer = load_checkpoint(profile, device, dtype)
        if adapter is not None:
            merge_adapter(self._model, adapter, weights_sha256=profile.weights_sha256)
        probe = self._tokenizer.encode("a", add_special_tokens=True)
        first = probe.special_tokens_mask.index(0)
        last = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
        self.prefix_ids: list[int] = probe.ids[:first]
        self.suffix_ids: list[int] = probe.ids[last:]
        if profile.family.end_token:
            end = self.tokenize_template(profile.family.end_token).tolist()
            if self.suffix_ids[-len(end) :] != end:
                self.suffix_ids += end

    @property
    def dim(self) -> int:
        """Size of a token state."""
        return self.profile.dim

    @property
    def max_tokens(self) -> int:
        """Most tokens in one forward pass, special tokens included."""
        return self.profile.max_tokens

    @property
    def capacity(self) -> int:
        """Most tokens of a text in one forward pass, special tokens not included."""
        return self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids)

    def tokenize(self, text: str) -> Tokens:
        """Tokenise a whole text of any length, without special tokens.

        Special tokens spelled out in the text, such as "[SEP]", are read as ordinary characters.
        """
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise several texts, on all cores."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        result = []
        for encoding in encodings:
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            result.append(Tokens(np.array(encoding.ids, dtype=np.int64), offsets[:, 0], offsets[:, 1]))
        return result

    def tokenize_template(self, template: str, **fields: str) -> Int[np.ndarray, " tokens"]:
        """Tokenise a text of ours, in which special tokens that are spelled out are meant as such.

        Args:
            template: May hold `{name}` for each field.
            **fields: What is filled in; special tokens spelled out there are ordinary characters.
        """
        added = {token.content: i for i, token in self._tokenizer.get_added_tokens_decoder().items()}
        specials = "|".join(re.escape(token) for token in sorted(added, key=len, reverse=True))
        ids: list[int] = []
        for part in re.split(f"({specials})", template) if specials else [template]:
            if part in added:
                ids.append(added[part])
            elif part:
                ids += self.tokenize(part.format(**fields) if fields else part).ids.tolist()
        return np.array(ids, dtype=np.int64)

    def encode(
        self, sequences: Iterable[Int[np.ndarray, " _"]], *, adds_special_tokens: bool = True
    ) -> Iterator[Float[Tensor, "_ dim"]]:
        """Compute the last-layer states of token sequences, in batches of at most `batch_tokens`.

        Args:
            sequences: Vocabulary ids without special tokens, none longer than `capacity`. Read lazily, so a
                stream of any length takes the memory of one batch.
            adds_special_tokens: Whether prefix and suffix are put around each; else the sequences are whole.

        Yields:
            For each sequence, in order, the states of prefix, tokens and suffix, on the encoder's device.

        Raises:
            ContextOverflowError: A sequence is longer than `capacity`.
            NonFiniteError: A state is NaN or infinite.
        """
        prefix, suffix = (self.prefix_ids, self.suffix_ids) if adds_special_tokens else ([], [])
        capacity = self.max_tokens - len(prefix) - len(suffix)
        batch: list[Int[np.ndarray, " _"]] = []
        size = 0
        for ids in sequences:
            if len(ids) > capacity:
                raise ContextOverflowError(
                    f"{len(ids)} tokens in one sequence; {self.profile.name} reads at most {capacity} at "
                    "once. Split the text into windows first"
                )
            full = np.concatenate([prefix, ids, suffix]).astype(np.int64)
            if batch and size + len(full) > self.batch_tokens:
                yield from self._forward(batch)
                batch, size = [], 0
            batch.append(full)
            size += len(full)
        if batch:
            yield from self._forward(batch)

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Int[np.ndarray, " _"]]) -> list[Float[Tensor, "_ dim"]]:
        with self._lock:
            self.token_count += sum(map(len, batch))
            states = self.forward(batch)
        # A sum is finite only if all its terms are, and costs less than asking each.
        if not bool(torch.stack([state.sum(dtype=torch.float32) for state in states]).isfinite().all()):
            raise NonFiniteError(
                f"{self.profile.name} in {self.dtype} on {self.device} returned NaN or infinite token "
                "states; expected finite numbers. In float16 this is an overflow: use dtype='float32' or "
                "'bfloat16'"
            )
        return states

    def forward(self, batch: Sequence[Int[np.ndarray, " _"]]) -> list[Float[Tensor, "_ dim"]]:
        """Run the model once over whole sequences, special tokens included.

        Unchecked and with gradients where they are enabled: for training. Use `encode` for all else.
        """
        return self._forward_packed(batch) if self.profile.is_packable else self._forward_by_length(batch)

    def trainable_model(self) -> torch.nn.Module:
        """The model itself, all weights frozen: what training puts an adapter on."""
        model: torch.nn.Module = self._model.requires_grad_(False)
        return model

    def _forward_packed(self, batch: Sequence[Int[np.ndarray, " _"]]) -> list[Float[Tensor, "_ dim"]]:
        lengths = [len(ids) for ids in batch]
        first = self.profile.first_position
        positions = np.concatenate([np.arange(first, first + length) for length in lengths])
        self.forward_count += 1
        output = self._model(
            input_ids=torch.from_numpy(np.concatenate(batch))[None].to(self.device),
            position_ids=torch.from_numpy(positions)[None].to(self.device),
            text_lengths=lengths,
        )
        return list(output.last_hidden_state[0].split(lengths))

    def _forward_by_length(self, batch: Sequence[Int[np.ndarray, " _"]]) -> list[Float[Tensor, "_ dim"]]:
        """One pass per length in the batch: needs neither padding nor a mask, whatever the architecture."""
        order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
        states: dict[int, Float[Tensor, "_ dim"]] = {}
        for _, same_length in groupby(order, key=lambda index: len(batch[index])):
            members = list(same_length)
            ids = torch.from_numpy(np.stack([batch[index] for index in members])).to(self.device)
            self.forward_count += 1
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
            states.update(zip(members, output.last_hidden_state, strict=True))
        return [states[index] for index in range(len(batch))]


def load_encoder(
    model: str | Path = EMBEDDED_MODEL,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
    batch_tokens: int = 2048,
    adapter: str | Path | None = None,
    insist: Collection[Guard] = (),
) -> Encoder:
    """Load a checkpoint, or return the one that this process has loaded already.

    Args:
        model: The embedded model's name, a local folder, or a hub id.
        revision: Commit of the hub repository.
        device: A torch device; by default the accelerator if there is one.
        dtype: "auto" is what the processor really computes fast: bfloat16 on accelerators and CPUs with
            native support, else float32.
        batch_tokens: Most tokens in one forward pass over several texts.
        adapter: The name of a shipped adapter or a folder, merged into the weights; None leaves them as they
            are.
        insist: Guards that are lifted: "late", "dim", "precision", "float16", "prefix"; see `guards.py`.

    Raises:
        MissingExtraError: The embedded model is not installed.
        UnsupportedModelError: The checkpoint cannot be loaded, not used correctly, or overflows in float16.
        OffsetsUnavailableError: Its tokenizer reports no character offsets.
    """
    if isinstance(model, Path):
        model = model.expanduser().resolve()
    target = torch.device(device or pick_device())
    precision = pick_dtype(target) if dtype == "auto" else getattr(torch, dtype)
    located = None if adapter is None else locate_adapter(adapter)
    key = (str(model), revision, target, precision, batch_tokens, located, frozenset(insist))
    with _loading:
        encoder = _loaded.get(key)
        if encoder is None:
            profile = locate_checkpoint(str(model), revision=revision)
            encoder = Encoder(
                profile,
                device=target,
                dtype=precision,
                batch_tokens=batch_tokens,
                adapter=located,
                insist=insist,
            )
            _loaded[key] = encoder
            _recent.append(encoder)
    return encoder


# One object for all who ask while anybody holds it; the last few stay although nobody does.
_loading = threading.Lock()
_loaded: WeakValueDictionary[tuple[object, ...], Encoder] = WeakValueDictionary()
_recent: deque[Encoder] = deque(maxlen=4)


def _renew_locks() -> None:
    """Unlock a forked child's encoders: a thread that was inside one stayed in the parent."""
    global _loading  # noqa: PLW0603
    _loading = threading.Lock()
    for encoder in list(_loaded.values()):
        encoder._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
