"""An encoder whose token states come from a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from rag_embed.adapter import Adapter
from rag_embed.checkpoint import load_tokenizer
from rag_embed.errors import (
    EncoderAnswerError,
    NonFiniteError,
    UnsupportedModelError,
)
from rag_embed.guards import Guard
from rag_embed.profiles import Profile
from rag_embed.scored_tokens import ScoredTokens
from rag_embed.served.connection import Connection
from rag_embed.served.server import Server
from rag_embed.served.tei import TeiWire
from rag_embed.served.vllm import VllmWire
from rag_embed.tokens import Tokens, surround

Sequences: TypeAlias = list[Int[np.ndarray, " _"]]


class Wire(Protocol):
    """How one engine is spoken to."""

    @property
    def remedy(self) -> str:
        """How a server of this engine is to be started."""

    def ask(self, sequences: Sequence[Int[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ dim"]]:
        """Get the states of whole sequences, special tokens included, in the given order."""


class ServedEncoder:
    """Token states of a checkpoint from a server. Use `rag_embed.served.loading`, which also probes it.

    Tokenizer, special tokens, windows and pooling are those of the local checkpoint.

    Args:
        profile: The local checkpoint that is served.
        server: Where, and how it is asked.
        url: Which of the server's addresses.
        adapter: What is merged into the weights that are served there.
        dtype: Precision that the server computes in.
        insist: Guards that are lifted, see `guards.py`.

    Attributes:
        scored_tokens: None: models that compare tokens are not served.

    Raises:
        UnsupportedModelError: The model has a head of its own, which engines do not apply.
        OffsetsUnavailableError: Its tokenizer reports no character offsets.
        EncoderUnavailableError: The server does not answer.
    """

    scored_tokens: ScoredTokens | None = None

    def __init__(
        self,
        profile: Profile,
        server: Server,
        url: str,
        *,
        adapter: Adapter | None = None,
        dtype: torch.dtype = torch.float32,
        insist: Collection[Guard] = (),
    ) -> None:
        if profile.multi_vector is not None:
            raise UnsupportedModelError(
                f"{profile.name} makes its token vectors by a head behind its states, which a server leaves "
                "out; expected a model without one. Leave out server= to compute it here"
            )
        self.profile = profile
        self.adapter = adapter
        self.server = server
        self.dtype = dtype
        self.device = torch.device("cpu")
        self.insist: Collection[Guard] = frozenset(insist)
        self._tokenizer, _ = load_tokenizer(profile)
        self.prefix_ids = self._tokenizer.prefix_ids
        self.suffix_ids = self._tokenizer.suffix_ids
        self.connection = Connection(server, url)
        self.wire: Wire = (
            VllmWire(self.connection, profile.dim)
            if server.engine == "vllm"
            else TeiWire(self.connection, self._tokenizer)
        )

    def __repr__(self) -> str:
        return f"ServedEncoder({self.profile.name!r}, {self.server.engine}, {self.connection.url!r})"

    @property
    def dim(self) -> int:
        """Size of a token state."""
        return self.profile.dim

    @property
    def max_tokens(self) -> int:
        """Most tokens of one sequence, special tokens included."""
        return self.profile.max_tokens

    @property
    def capacity(self) -> int:
        """Most tokens of a text in one sequence, special tokens not included."""
        return self.max_tokens - len(self.prefix_ids) - len(self.suffix_ids)

    @property
    def shared_pass_tokens(self) -> int:
        """None: a server makes its own passes."""
        return 0

    @property
    def batches_documents(self) -> bool:
        """Documents of any length go through in one stream: a server promises no bits anyway."""
        return True

    def tokenize(self, text: str) -> Tokens:
        """Tokenise a whole text of any length, without special tokens; as `Encoder.tokenize`."""
        return self._tokenizer.tokenize(text)

    def tokenize_all(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise several texts, on all cores."""
        return self._tokenizer.tokenize_all(texts)

    def tokenize_template(self, template: str, **fields: str) -> Int[np.ndarray, " tokens"]:
        """Tokenise a text of ours, in which special tokens that are spelled out are meant as such."""
        return self._tokenizer.tokenize_template(template, **fields)

    def encode(
        self,
        sequences: Iterable[Int[np.ndarray, " _"]],
        *,
        adds_special_tokens: bool = True,
        pass_tokens: int | None = None,
        unseen_tokens: int = 0,
    ) -> Iterator[Float[Tensor, "_ dim"]]:
        """Ask for the last-layer states of token sequences, some requests ahead of what is taken.

        Args:
            sequences: Vocabulary ids without special tokens, none longer than `capacity`. Read lazily.
            adds_special_tokens: Whether prefix and suffix are put around each; else the sequences are whole.
            pass_tokens: Without meaning here: the server makes its own batches.
            unseen_tokens: Must be 0: no engine hides tokens from others.

        Yields:
            For each sequence, in order, the states of prefix, tokens and suffix, float32 on the CPU.

        Raises:
            ContextOverflowError: A sequence is longer than `capacity`.
            UnsupportedModelError: The engine cannot read what is asked.
            EncoderUnavailableError: The server does not answer.
            EncoderAnswerError: It answers with something else than a state for each token.
            NonFiniteError: A state is NaN or infinite.
        """
        if unseen_tokens:
            raise UnsupportedModelError(
                f"{unseen_tokens} tokens that the others do not see cannot be had from a server; expected "
                "none. Leave out server= to compute them here"
            )
        batches = self._batch(sequences, adds_special_tokens)
        ahead = self.server.requests_in_flight
        pool = ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="rag-embed-served")
        pending: deque[Future[list[Float[Tensor, "_ dim"]]]] = deque()
        try:
            for batch in chain(batches, [None] * ahead):
                if batch is not None:
                    pending.append(pool.submit(self._ask, batch))
                if pending and (batch is None or len(pending) >= ahead):
                    yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _batch(
        self, sequences: Iterable[Int[np.ndarray, " _"]], adds_special_tokens: bool
    ) -> Iterator[Sequences]:
        """Put sequences into requests of a bounded size."""
        prefix, suffix = (self.prefix_ids, self.suffix_ids) if adds_special_tokens else ([], [])
        whole = surround(sequences, prefix, suffix, max_tokens=self.max_tokens, name=self.profile.name)
        batch: Sequences = []
        size = 0
        for full in whole:
            is_full = len(batch) == self.server.batch_sequences or size + len(full) > self.server.batch_tokens
            if batch and is_full:
                yield batch
                batch, size = [], 0
            batch.append(full)
            size += len(full)
        if batch:
            yield batch

    def _ask(self, batch: Sequences) -> list[Float[Tensor, "_ dim"]]:
        """Get one request's states, and refuse what cannot be these tokens' states."""
        states = self.wire.ask(batch)
        for ids, each in zip(batch, states, strict=True):
            if each.shape != (len(ids), self.dim):
                raise EncoderAnswerError(
                    f"{self.connection.url} answered {len(ids)} tokens with states of shape {each.shape}; "
                    f"expected {(len(ids), self.dim)}. {self._guess(each.shape, len(ids))}: "
                    f"{self.wire.remedy}"
                )
            if not np.isfinite(each).all():
                raise NonFiniteError(
                    f"{self.connection.url} answered with NaN or infinite token states; expected finite "
                    "numbers. In float16 this is an overflow: start the server with --dtype float32"
                )
        return [torch.from_numpy(each) for each in states]

    def _guess(self, shape: tuple[int, ...], token_count: int) -> str:
        if shape[1] != self.dim:
            return "It serves another model"
        if shape[0] < token_count:
            return "It cuts texts, or leaves out special tokens"
        return "It adds special tokens of its own"
