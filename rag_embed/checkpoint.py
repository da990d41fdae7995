"""Model and tokenizer out of a checkpoint's files, and the attention that packed texts need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from tokenizers import normalizers
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    T5EncoderModel,
)
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from transformers.utils import logging as transformers_logging

from rag_embed.errors import OffsetsUnavailableError, UnsupportedModelError
from rag_embed.jina_bert import JinaBertModel
from rag_embed.profiles import Profile

_PACKED = "rag_embed_packed"


def _attend_within_texts(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads tokens head_dim"],
    key: Float[Tensor, "1 key_heads tokens head_dim"],
    value: Float[Tensor, "1 key_heads tokens head_dim"],
    attention_mask: Tensor | None,
    *,
    text_lengths: Sequence[int],
    scaling: float | None = None,
    **_unused: object,
) -> tuple[Float[Tensor, "1 tokens heads head_dim"], None]:
    """Attention inside each of the packed texts; neighbours of one length go through in one call."""
    groups = [(length, len(list(same_length))) for length, same_length in groupby(text_lengths)]
    sizes = [length * count for length, count in groups]
    # Split and joined, not sliced and assigned: the gradient of a slice is as large as all texts together.
    split = (states[0].split(sizes, dim=1) for states in (query, key, value))
    attended = []
    for (length, count), *states in zip(groups, *split, strict=True):
        queries, keys, values = (part.unflatten(1, (count, length)).transpose(0, 1) for part in states)
        result = torch.nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            scale=scaling,
            is_causal=bool(getattr(module, "is_causal", False)),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        attended.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


AttentionInterface.register(_PACKED, _attend_within_texts)
AttentionMaskInterface.register(_PACKED, lambda *_, **__: None)

# Architectures that AutoModel does not load as the encoder that they are.
_MODEL_CLASSES: Mapping[str, type[PreTrainedModel]] = {
    "jina-bert": JinaBertModel,
    "t5": T5EncoderModel,
    "bidirectional_pplx_qwen3": Qwen3Model,
}


def load_checkpoint(  # type: ignore[no-untyped-def]  # transformers and tokenizers are not typed
    profile: Profile, device: torch.device, dtype: torch.dtype
):
    """Load model and tokenizer from local files: safetensors only, no remote code, nothing printed."""
    try:
        with _silence():
            tokenizer = AutoTokenizer.from_pretrained(
                profile.folder, local_files_only=True, trust_remote_code=False
            )
            model, report = _load_model(profile, dtype)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UnsupportedModelError(
            f"{profile.name} could not be loaded from {profile.folder}: {error}. Expected undamaged weights "
            "that fit config.json, of an architecture that transformers knows itself"
            + _describe_remote_code(profile)
        ) from error
    _check_weights(profile, report)
    _set_causality(profile, model)
    if not tokenizer.is_fast:
        raise OffsetsUnavailableError(
            f"the tokenizer of {profile.name} is {type(tokenizer).__name__}, which reports no character "
            "offsets; expected a fast tokenizer (tokenizer.json)"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    if profile.separator:  # not every tokenizer counts it as special, and then chunks could spell it
        backend.add_special_tokens([profile.separator])
    if profile.is_lowercased:
        first = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *first])
    return model.eval().to(device), backend


def _load_model(profile: Profile, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if profile.is_packable:
        options["attn_implementation"] = _PACKED
    if profile.architecture == "bidirectional_pplx_qwen3":  # Qwen3's config under another name
        options["config"] = Qwen3Config.from_pretrained(profile.folder, local_files_only=True)
    if profile.architecture in _MODEL_CLASSES:
        return _MODEL_CLASSES[profile.architecture].from_pretrained(profile.folder, **options)
    return AutoModel.from_pretrained(profile.folder, trust_remote_code=False, **options)


def _check_weights(profile: Profile, report: Mapping[str, Collection[str]]) -> None:
    """Refuse weights that lack tensors, which would be random numbers; the pooler is not used."""
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise UnsupportedModelError(
            f"the weights of {profile.name} lack {len(missing)} tensors, such as {missing[0]!r}; expected "
            f"all of the architecture {profile.architecture!r}. The file is incomplete, or not config.json's"
            + _describe_remote_code(profile)
        )


def _set_causality(profile: Profile, model: torch.nn.Module) -> None:
    """Let tokens attend as the checkpoint was trained, and refuse a model that cannot be told so."""
    if profile.architecture == "bidirectional_pplx_qwen3":
        for layer in model.layers:  # type: ignore[union-attr]
            layer.self_attn.is_causal = False
    if (
        any(getattr(module, "is_causal", False) is True for module in model.modules())
        and not profile.is_causal
    ):
        raise UnsupportedModelError(
            f"{profile.name} has an architecture, {profile.architecture!r}, that attends to earlier tokens "
            "only, which is not known here; expected an encoder, or a decoder that docs/models.md lists"
        )


def _describe_remote_code(profile: Profile) -> str:
    if not profile.remote_code:
        return "; remote code is not run"
    return (
        f"; its own code ({', '.join(profile.remote_code)}) was refused: remote code is not run. "
        "docs/models.md lists what is loaded without it"
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep transformers from printing, and leave its settings as they were."""
    had_progress_bar = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bar:
            transformers_logging.enable_progress_bar()
