"""The served encoders of this process: connected and probed at first use, one for all who ask for it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Collection
from weakref import WeakValueDictionary

import torch

from rag_embed.adapter import Adapter
from rag_embed.devices import Dtype, pick_device
from rag_embed.encoder import Encoder
from rag_embed.errors import InputError
from rag_embed.guards import Guard
from rag_embed.profiles import Profile
from rag_embed.served.encoder import ServedEncoder
from rag_embed.served.probe import probe
from rag_embed.served.server import Server

_Key = tuple[Profile, Adapter | None, Server, str | None, torch.dtype, frozenset[Guard]]

_lock = threading.Lock()
_connected: WeakValueDictionary[_Key, ServedEncoder] = WeakValueDictionary()
_recent: deque[ServedEncoder] = deque(maxlen=4)


def connect_encoder(
    profile: Profile,
    server: Server,
    *,
    adapter: Adapter | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
    insist: Collection[Guard] = (),
) -> ServedEncoder:
    """Connect to a server and compare it with the same weights here, or return what is connected already.

    The local weights are loaded once for the comparison, in float32, and let go.

    Args:
        profile: The checkpoint that is served.
        server: Where; with an adapter its `context_url` is asked.
        adapter: What is merged into the weights that are served.
        device: Where the local weights are compared; by default the accelerator if there is one.
        dtype: Precision that the server computes in; "auto" is float32.
        insist: Guards that are lifted.

    Raises:
        InputError: There is an adapter and no server of its merged weights.
        EncoderUnavailableError: The server does not answer, or does not let us in.
        EncoderAnswerError: It gives other token states than the local weights.
        UnsupportedModelError: The model cannot be served, or not loaded here.
    """
    url = server.url if adapter is None else server.context_url
    if url is None:
        name = adapter.name if adapter else ""
        raise InputError(
            f"adapter {name!r} is merged into the weights that read documents, and {server.url} serves one "
            "set of weights, for queries; expected a second server. Export both (`rag-embed export`), serve "
            "the folder 'context' too and name it as context_server=; or index without context (adapter=None)"
        )
    precision = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    key = (profile, adapter, server, server.find_key(), precision, frozenset(insist))
    with _lock:
        encoder = _connected.get(key)
        if encoder is None:
            encoder = ServedEncoder(profile, server, url, adapter=adapter, dtype=precision, insist=insist)
            target = torch.device(device or pick_device())
            probe(encoder, Encoder(profile, device=target, dtype=torch.float32, adapter=adapter))
            _connected[key] = encoder
            _recent.append(encoder)
    return encoder


def _renew_locks() -> None:
    """Unlock a forked child's encoders: a thread that was inside one stayed in the parent."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    for encoder in list(_connected.values()):
        encoder.connection.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
