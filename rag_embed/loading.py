"""The encoders of this process: loaded at first use, one for all who ask for the same; embedders on them."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Collection
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from rag_embed.adapter import Adapter, locate_adapter
from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.devices import Dtype, has_fast_bfloat16, pick_batch_tokens, pick_device, pick_dtype
from rag_embed.encoder import Encoder
from rag_embed.errors import InputError, UnsupportedModelError
from rag_embed.guards import Guard
from rag_embed.max_sim import DEFAULT_FORM, TokenForm
from rag_embed.passes import TokenEncoder
from rag_embed.profiles import EMBEDDED_MODEL, Profile, locate_checkpoint
from rag_embed.recipe import Recipe
from rag_embed.served import Server
from rag_embed.served.loading import connect_encoder
from rag_embed.shared_layers import SharedLayers, share_layers
from rag_embed.window_cache import WindowCache

logger = logging.getLogger(__name__)

_Weights = tuple[Profile, torch.device, torch.dtype, Adapter | None]

# Kept while anybody holds them; the last few stay although nobody does.
_lock = threading.Lock()
_loaded: WeakValueDictionary[tuple[_Weights, int, frozenset[Guard]], Encoder] = WeakValueDictionary()
_recent: deque[Encoder] = deque(maxlen=4)
_shared: WeakValueDictionary[tuple[Encoder, Adapter], SharedLayers] = WeakValueDictionary()


def load_encoder(
    model: str | Path = EMBEDDED_MODEL,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
    batch_tokens: int | None = None,
    adapter: str | Path | None = None,
    insist: Collection[Guard] = (),
) -> Encoder:
    """Load a checkpoint, or return the one that this process has loaded already.

    Args:
        model: The embedded model's name, a local folder, or a hub id.
        revision: Commit of the hub repository.
        device: A torch device; by default the accelerator if there is one.
        dtype: "auto" is float32 on a CPU, and bfloat16 on accelerators that compute it natively.
        batch_tokens: Most tokens in one forward pass over several texts; None is what suits the device.
            Encoders that differ in it alone share their weights.
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
    precision: torch.dtype = pick_dtype(target) if dtype == "auto" else getattr(torch, dtype)
    located = None if adapter is None else locate_adapter(adapter)
    profile = locate_checkpoint(str(model), revision=revision)
    weights = (profile, target, precision, located)
    batch_tokens = batch_tokens or pick_batch_tokens(target)
    key = (weights, batch_tokens, frozenset(insist))
    with _lock:
        encoder = _loaded.get(key)
        if encoder is None:
            like = next((other for (same, *_), other in _loaded.items() if same == weights), None)
            encoder = (
                _load(weights, batch_tokens, insist)
                if like is None
                else like.share(batch_tokens=batch_tokens, insist=insist)
            )
            _loaded[key] = encoder
            _recent.append(encoder)
    return encoder


def _load(weights: _Weights, batch_tokens: int, insist: Collection[Guard]) -> Encoder:
    profile, device, dtype, adapter = weights
    encoder = Encoder(
        profile, device=device, dtype=dtype, batch_tokens=batch_tokens, adapter=adapter, insist=insist
    )
    is_slower = device.type == "cpu" and dtype == torch.float32 and has_fast_bfloat16()
    logger.info(
        "%s%s computes in %s on %s%s",
        profile.name,
        f" with adapter {adapter.name}" if adapter else "",
        str(dtype).removeprefix("torch."),
        device,
        "; dtype='bfloat16' would be about twice as fast here (docs/benchmarks.md, Precision)"
        if is_slower
        else "",
    )
    return encoder


def _renew_locks() -> None:
    """Unlock a forked child's encoders: a thread that was inside one stayed in the parent."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    for encoder in list(_loaded.values()):
        encoder.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def load_embedder(
    recipe: Recipe | None = None,
    *,
    device: str | None = None,
    batch_tokens: int | None = None,
    insist: Collection[Guard] = (),
    token_form: TokenForm | None = None,
    server: Server | None = None,
    window_cache: Path | None = None,
) -> ChunkEmbedder:
    """Load what a recipe needs, or take what this process has loaded already.

    Args:
        recipe: How vectors are made; by default as `ContextualEmbedding()` makes them.
        device: A torch device; by default the accelerator if there is one.
        batch_tokens: Most tokens in one forward pass over several texts; None is what suits the device.
        insist: Guards that are lifted, see `rag_embed.guards`.
        token_form: What is kept of token states, where they are asked for.
        server: What computes token states instead of this process; by the recipe's engine. With an adapter in
            the recipe it must name a server of the merged weights too, which is asked for at once.
        window_cache: File in which windows are kept that were read, so that an edited document costs what was
            edited (`rag_embed.window_cache`).

    Raises:
        InputError: Recipe and server name different engines, or the merged weights are served nowhere; or
            windows are to be kept of a recipe that does not cut them by content.
        MissingExtraError: The embedded model is not installed.
        EncoderUnavailableError: The server does not answer, or does not let us in.
        EncoderAnswerError: It gives other token states than the local weights.
        UnsupportedModelError: The checkpoint cannot be used, or is another than the recipe has looked at.
    """
    recipe = Recipe() if recipe is None else recipe
    located = recipe.located_adapter
    if recipe.engine != (server.engine if server else "torch"):
        raise InputError(
            f"engine is {recipe.engine!r} and the server's is {server.engine if server else 'torch'!r}; "
            "expected one engine, and a server for 'vllm' and 'tei' alone. Name both: server=, engine="
        )
    if server is not None and recipe.shares_layers:
        raise InputError(
            f"adapter {recipe.adapter!r} shares layers between two readings of a chunk, which a server of "
            "token states cannot; use an adapter of the whole encoder, or none, or no server"
        )
    if window_cache is not None and not recipe.shares_layers:
        raise InputError(
            f"window_cache is {str(window_cache)!r} and strategy {recipe.strategy!r} with adapter "
            f"{recipe.adapter!r}, whose windows are counted from the start of a document and all change "
            "behind an insertion; expected an adapter that shares layers. Leave window_cache out"
        )
    if server is not None:
        connect = partial(
            connect_encoder, recipe.profile, server, device=device, dtype=recipe.dtype, insist=insist
        )
        # Connected at once: a server of merged weights that is missing or another is found out before work.
        context: TokenEncoder | None = connect(adapter=located) if located else None
        served = connect()
        return ChunkEmbedder(recipe, served, lambda: context or served, token_form or DEFAULT_FORM)

    def load(adapter: Path | None = None) -> Encoder:
        encoder = load_encoder(
            recipe.model,
            revision=recipe.revision,
            device=device,
            dtype=recipe.dtype,
            batch_tokens=batch_tokens,
            adapter=adapter,
            insist=insist,
        )
        if encoder.profile != recipe.profile:
            raise UnsupportedModelError(
                f"the files of {recipe.model} are others than when this model looked at them first, so its "
                "fingerprint would be that of other vectors; expected files that stay. Make another model"
            )
        return encoder

    encoder = load()
    if located is not None and recipe.shares_layers:
        load_shared = partial(_load_shared_layers, encoder, located)
        space = f"{recipe.fingerprint()} {encoder.dtype} {encoder.device.type} torch {torch.__version__}"
        cache = WindowCache(window_cache, space=space) if window_cache else None
        return ChunkEmbedder(recipe, encoder, lambda: encoder, token_form or DEFAULT_FORM, load_shared, cache)
    load_context_encoder = partial(load, located.folder if located else None)
    return ChunkEmbedder(recipe, encoder, load_context_encoder, token_form or DEFAULT_FORM)


def _load_shared_layers(encoder: Encoder, adapter: Adapter) -> SharedLayers:
    """Make what reads both ways, or take what this process has made of the same encoder already."""
    with _lock:
        layers = _shared.get((encoder, adapter))
        if layers is None:
            layers = _shared[encoder, adapter] = share_layers(encoder, adapter)
    return layers
