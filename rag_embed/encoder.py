"""The one encoder: tokenises with offsets, batches by token budget, and yields token states.

Texts of a batch are packed one behind the other instead of padded to one length: the linear layers see real
tokens only, and attention runs text by text (`_attend_within_texts`). So no position is ever computed for
nothing, there is no mask to get wrong, and a text's states do not depend on its neighbours in the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from transformers.utils import logging as transformers_logging

from rag_embed.errors import (
    ContextOverflowError,
    NonFiniteError,
    OffsetsUnavailableError,
    UnsupportedModelError,
)
from rag_embed.profiles import EMBEDDED_MODEL, Profile, locate_checkpoint

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_PACKED = "rag_embed_packed"


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text without special tokens.

    Attributes:
        ids: Vocabulary ids in reading order.
        starts: First character of each token in the text.
        ends: One past its last character.
    """

    ids: Int[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " tokens"]
    ends: Int[np.ndarray, " tokens"]

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """A loaded checkpoint. Use `load_encoder`, which shares one between all who ask for the same.

    Args:
        profile: The checkpoint and how it is used.
        device: Where the model runs.
        dtype: Precision of its weights and states.
        batch_tokens: Most tokens in one forward pass over several texts.

    Attributes:
        forward_count: Forward passes since loading.
        token_count: Tokens computed since loading, special tokens included.
    """

    def __init__(
        self, profile: Profile, *, device: torch.device, dtype: torch.dtype, batch_tokens: int = 2048
    ) -> None:
        self.profile = profile
        self.device = device
        self.dtype = dtype
        self.batch_tokens = batch_tokens
        self.forward_count = 0
        self.token_count = 0
        self._lock = threading.Lock()
        self._model, self._tokenizer = _load_checkpoint(profile, device, dtype)
        probe = self._tokenizer.encode("a", add_special_tokens=True)
        first = probe.special_tokens_mask.index(0)
        last = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
        self.prefix_ids: list[int] = probe.ids[:first]
        self.suffix_ids: list[int] = probe.ids[last:]

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

    def encode(
        self, sequences: Iterable[Int[np.ndarray, " tokens"]]
    ) -> Iterator[Float[Tensor, "tokens dim"]]:
        """Compute the last-layer states of token sequences, in batches of at most `batch_tokens`.

        Args:
            sequences: Vocabulary ids without special tokens, none longer than `capacity`. Read lazily, so a
                stream of any length takes the memory of one batch.

        Yields:
            For each sequence, in order, the states of prefix, tokens and suffix, on the encoder's device.

        Raises:
            ContextOverflowError: A sequence is longer than `capacity`.
            NonFiniteError: A state is NaN or infinite.
        """
        batch: list[Int[np.ndarray, " tokens"]] = []
        size = 0
        for ids in sequences:
            if len(ids) > self.capacity:
                raise ContextOverflowError(
                    f"{len(ids)} tokens in one sequence; {self.profile.name} reads at most "
                    f"{self.capacity} at once. "
                    "Split the text into windows first"
                )
            full = np.concatenate([self.prefix_ids, ids, self.suffix_ids]).astype(np.int64)
            if batch and size + len(full) > self.batch_tokens:
                yield from self._forward(batch)
                batch, size = [], 0
            batch.append(full)
            size += len(full)
        if batch:
            yield from self._forward(batch)

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Int[np.ndarray, " tokens"]]) -> list[Float[Tensor, "tokens dim"]]:
        with self._lock:
            self.token_count += sum(map(len, batch))
            states = (
                self._forward_packed(batch) if self.profile.is_packable else self._forward_by_length(batch)
            )
        # A sum is finite only if all its terms are, and costs less than asking each.
        if not bool(torch.stack([state.sum(dtype=torch.float32) for state in states]).isfinite().all()):
            raise NonFiniteError(
                f"{self.profile.name} in {self.dtype} on {self.device} returned NaN or infinite token "
                "states; "
                "expected finite numbers. In float16 this is an overflow: use dtype='float32' or 'bfloat16'"
            )
        return states

    def _forward_packed(
        self, batch: Sequence[Int[np.ndarray, " tokens"]]
    ) -> list[Float[Tensor, "tokens dim"]]:
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

    def _forward_by_length(
        self, batch: Sequence[Int[np.ndarray, " tokens"]]
    ) -> list[Float[Tensor, "tokens dim"]]:
        """One pass per length in the batch: needs neither padding nor a mask, whatever the architecture."""
        order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
        states: dict[int, Float[Tensor, "tokens dim"]] = {}
        for _, same_length in groupby(order, key=lambda index: len(batch[index])):
            members = list(same_length)
            ids = torch.from_numpy(np.stack([batch[index] for index in members])).to(self.device)
            self.forward_count += 1
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
            states.update(zip(members, output.last_hidden_state, strict=True))
        return [states[index] for index in range(len(batch))]


def _attend_within_texts(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens head_dim"],
    key: Float[Tensor, "1 heads tokens head_dim"],
    value: Float[Tensor, "1 heads tokens head_dim"],
    attention_mask: Tensor | None,
    *,
    text_lengths: Sequence[int],
    scaling: float | None = None,
    **_unused: object,
) -> tuple[Float[Tensor, "1 tokens heads head_dim"], None]:
    """Full attention inside each of the packed texts; neighbours of one length go through in one call."""
    _, heads, tokens, _ = query.shape
    output = value.new_empty(1, tokens, heads, value.shape[-1])
    start = 0
    for length, same_length in groupby(text_lengths):
        count = len(list(same_length))
        end = start + count * length
        queries, keys, values = (
            states[0, :, start:end].unflatten(1, (count, length)).transpose(0, 1)
            for states in (query, key, value)
        )
        attended = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        output[0, start:end].unflatten(0, (count, length)).copy_(attended.transpose(1, 2))
        start = end
    return output, None


AttentionInterface.register(_PACKED, _attend_within_texts)
AttentionMaskInterface.register(_PACKED, lambda *_, **__: None)


def _load_checkpoint(  # type: ignore[no-untyped-def]  # transformers and tokenizers are not typed
    profile: Profile, device: torch.device, dtype: torch.dtype
):
    """Load model and tokenizer from local files: safetensors only, no remote code, nothing printed."""
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            profile.folder, local_files_only=True, trust_remote_code=False
        )
        model = AutoModel.from_pretrained(
            profile.folder,
            dtype=dtype,
            attn_implementation=_PACKED if profile.is_packable else "sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModelError(
            f"{profile.name} could not be loaded from {profile.folder}: {error}. Expected a checkpoint whose "
            "architecture transformers knows by itself; remote code is not run"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bar:
            transformers_logging.enable_progress_bar()
    if not tokenizer.is_fast:
        raise OffsetsUnavailableError(
            f"the tokenizer of {profile.name} is {type(tokenizer).__name__}, which reports no character "
            "offsets; "
            "expected a fast tokenizer (tokenizer.json)"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return model.eval().to(device), backend


def load_encoder(
    model: str | Path = EMBEDDED_MODEL,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
    batch_tokens: int = 2048,
) -> Encoder:
    """Load a checkpoint, or return the one that this process has loaded already.

    Args:
        model: The embedded model's name, a local folder, or a hub id.
        revision: Commit of the hub repository.
        device: A torch device; by default the accelerator if there is one.
        dtype: "auto" is what the processor really computes fast: bfloat16 on accelerators and CPUs with
            native support, else float32.
        batch_tokens: Most tokens in one forward pass over several texts.

    Raises:
        MissingExtraError: The embedded model is not installed.
        UnsupportedModelError: The checkpoint cannot be loaded, or not used correctly.
        OffsetsUnavailableError: Its tokenizer reports no character offsets.
    """
    return _load_shared(str(model), revision, device or pick_device(), dtype, batch_tokens)


@lru_cache(maxsize=4)
def _load_shared(model: str, revision: str | None, device: str, dtype: Dtype, batch_tokens: int) -> Encoder:
    target = torch.device(device)
    return Encoder(
        locate_checkpoint(model, revision=revision),
        device=target,
        dtype=pick_dtype(target) if dtype == "auto" else getattr(torch, dtype),
        batch_tokens=batch_tokens,
    )


def pick_device() -> str:
    """Name the accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else "cpu"


def pick_dtype(device: torch.device) -> torch.dtype:
    """Pick the fastest precision whose range is float32's.

    bfloat16 on a CPU without instructions for it runs a hundred times slower than float32; float16 overflows
    in several encoders, so it is never picked by itself.
    """
    if device.type == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        is_native = False
    return torch.bfloat16 if is_native else torch.float32
