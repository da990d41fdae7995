"""Model and tokenizer out of a checkpoint's files, and the attention that packed texts need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from transformers.utils import logging as transformers_logging

from rag_embed.errors import OffsetsUnavailableError, UnsupportedModelError
from rag_embed.profiles import Profile

_PACKED = "rag_embed_packed"


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
    groups = [(length, len(list(same_length))) for length, same_length in groupby(text_lengths)]
    sizes = [length * count for length, count in groups]
    # Split and joined, not sliced and assigned: the gradient of a slice is as large as all texts together.
    split = (states[0].split(sizes, dim=1) for states in (query, key, value))
    attended = []
    for (length, count), *states in zip(groups, *split, strict=True):
        queries, keys, values = (part.unflatten(1, (count, length)).transpose(0, 1) for part in states)
        result = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        attended.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


AttentionInterface.register(_PACKED, _attend_within_texts)
AttentionMaskInterface.register(_PACKED, lambda *_, **__: None)


def load_checkpoint(  # type: ignore[no-untyped-def]  # transformers and tokenizers are not typed
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
        model, report = AutoModel.from_pretrained(
            profile.folder,
            dtype=dtype,
            attn_implementation=_PACKED if profile.is_packable else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UnsupportedModelError(
            f"{profile.name} could not be loaded from {profile.folder}: {error}. Expected undamaged weights "
            "that fit config.json, of an architecture that transformers knows itself; remote code is not run"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bar:
            transformers_logging.enable_progress_bar()
    # The pooler is not used; anything else that is missing would be random numbers.
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise UnsupportedModelError(
            f"the weights of {profile.name} lack {len(missing)} tensors, such as {missing[0]!r}; expected "
            f"all of the architecture {profile.architecture!r}. The file is incomplete, or not config.json's"
        )
    if not tokenizer.is_fast:
        raise OffsetsUnavailableError(
            f"the tokenizer of {profile.name} is {type(tokenizer).__name__}, which reports no character "
            "offsets; expected a fast tokenizer (tokenizer.json)"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return model.eval().to(device), backend
