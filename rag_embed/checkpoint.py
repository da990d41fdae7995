"""Model and tokenizer out of a checkpoint's files: safetensors only, no remote code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import normalizers
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    T5EncoderModel,
)
from transformers.utils import logging as transformers_logging

from rag_embed.errors import OffsetsUnavailableError, UnsupportedModelError
from rag_embed.jina_bert import JinaBertModel
from rag_embed.packed_attention import PACKED_ATTENTION
from rag_embed.prefix_markers import find_markers
from rag_embed.profiles import Profile
from rag_embed.profiles.files import read_json
from rag_embed.profiles.sizes import check_sizes
from rag_embed.scored_tokens import ScoredTokens, resolve_scored_tokens
from rag_embed.text_tokenizer import TextTokenizer
from rag_embed.token_head import TokenHead

# Architectures that AutoModel does not load as the encoder that they are.
_MODEL_CLASSES: Mapping[str, type[PreTrainedModel]] = {
    "jina-bert": JinaBertModel,
    "t5": T5EncoderModel,
    "bidirectional_pplx_qwen3": Qwen3Model,
}


# Parts of a training model behind its encoder, and what older versions of transformers stored with weights.
_UNUSED_BY_RIGHT = re.compile(
    r"(cls|lm_head|pooler|classifier|score|decoder|qa_outputs|vocab_transform|vocab_layer_norm"
    r"|vocab_projector|head|bert\.pooler|roberta\.pooler)\..*|.*\.(position_ids|inv_freq)"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer.

    Attributes:
        model: Gives the last layer's states, in evaluation mode.
        tokenizer: Of its texts.
        head: Makes token vectors of the states, in a model that was trained to compare them.
        scored_tokens: Which of those are compared.
    """

    model: torch.nn.Module
    tokenizer: TextTokenizer
    head: TokenHead | None
    scored_tokens: ScoredTokens | None


def load_checkpoint(profile: Profile, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Load model and tokenizer from local files; no code of the checkpoint's runs, nothing is printed.

    Raises:
        UnsupportedModelError: The files are damaged, do not fit each other, or are of an unknown
            architecture.
        OffsetsUnavailableError: The tokenizer reports no character offsets.
    """
    check_sizes(
        read_json(profile.folder / "config.json"),
        name=profile.name,
        tensor_count=_count_tensors(profile),
        dim=profile.encoder_dim,
    )
    tokenizer, backend = load_tokenizer(profile)
    with _loading(profile), _silence():
        model, report = _load_model(profile, dtype)
        if profile.is_packable and model.config._attn_implementation != PACKED_ATTENTION:
            # An attention named in config.json goes before the argument; texts would see their neighbours.
            model.set_attn_implementation(PACKED_ATTENTION)
    _check_weights(profile, report)
    _set_causality(profile, model)
    _check_vocabulary(profile, model, tokenizer)
    head = None
    if profile.multi_vector is not None:
        head = TokenHead(profile.multi_vector.layers).requires_grad_(False).eval().to(device, dtype)
    expansion_ids = (backend.mask_token_id, backend.eos_token_id)
    scored_tokens = resolve_scored_tokens(
        profile,
        backend.backend_tokenizer.token_to_id,
        default_expansion_id=next((each for each in expansion_ids if each is not None), None),
    )
    return Checkpoint(model.eval().to(device), tokenizer, head, scored_tokens)


def load_tokenizer(profile: Profile) -> tuple[TextTokenizer, Any]:
    """Load a checkpoint's tokenizer alone: ours, and transformers' around the same backend.

    Raises:
        UnsupportedModelError: Its files are damaged.
        OffsetsUnavailableError: It reports no character offsets.
    """
    with _loading(profile), _silence():
        backend = AutoTokenizer.from_pretrained(
            profile.folder, local_files_only=True, trust_remote_code=False
        )
    if not backend.is_fast:
        raise OffsetsUnavailableError(
            f"the tokenizer of {profile.name} is {type(backend).__name__}, which reports no character "
            "offsets; expected a fast tokenizer (tokenizer.json)"
        )
    with _loading(profile):
        return _prepare_tokenizer(profile, backend.backend_tokenizer), backend


def _count_tensors(profile: Profile) -> int:
    with _loading(profile):
        count = 0
        for path in profile.folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                count += len(file.keys())
    return count


@contextmanager
def _loading(profile: Profile) -> Iterator[None]:
    """Turn whatever a library raises over a checkpoint's files into the one error that names the checkpoint.

    Configs hold anything, so anything is raised: division by zero heads, text compared with numbers. The
    tokenizers' Rust code panics with an exception that is no `Exception`.
    """
    try:
        yield
    except (UnsupportedModelError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UnsupportedModelError(
            f"{profile.name} could not be loaded from {profile.folder}: {reason[:600]}. Expected undamaged "
            "weights that fit config.json, of an architecture that transformers knows itself"
            + _describe_remote_code(profile)
        ) from error


def _prepare_tokenizer(profile: Profile, backend: Any) -> TextTokenizer:
    backend.no_truncation()
    backend.no_padding()
    if profile.separator:  # not every tokenizer counts it as special, and then chunks could spell it
        backend.add_special_tokens([profile.separator])
    if profile.is_lowercased:
        first = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *first])
    markers = find_markers(profile, backend)
    backend.encode_special_tokens = True
    return TextTokenizer(backend, end_token=profile.family.end_token, markers=markers)


def _load_model(profile: Profile, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if profile.is_packable:
        options["attn_implementation"] = PACKED_ATTENTION
    if profile.architecture == "bidirectional_pplx_qwen3":  # Qwen3's config under another name
        options["config"] = Qwen3Config.from_pretrained(profile.folder, local_files_only=True)
    if profile.architecture in _MODEL_CLASSES:
        return _MODEL_CLASSES[profile.architecture].from_pretrained(profile.folder, **options)
    return AutoModel.from_pretrained(profile.folder, trust_remote_code=False, **options)


def _check_weights(profile: Profile, report: Mapping[str, Collection[str]]) -> None:
    """Refuse weights that are not all of the model, which would be random, or more than the model."""
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith("pooler.")):
        raise UnsupportedModelError(
            f"the weights of {profile.name} lack {len(missing)} tensors, such as {missing[0]!r}; expected "
            f"all of the architecture {profile.architecture!r}. The file is incomplete, or not config.json's"
            + _describe_remote_code(profile)
        )
    of_head = profile.multi_vector is not None and not all(
        each.is_alone for each in profile.multi_vector.layers
    )
    surplus = set(report["unexpected_keys"]) - ({"linear.weight"} if of_head else set())
    if unused := sorted(key for key in surplus if not _UNUSED_BY_RIGHT.fullmatch(key)):
        raise UnsupportedModelError(
            f"the weights of {profile.name} hold {len(unused)} tensors that config.json has no place for, "
            f"such as {unused[0]!r}; expected those of the architecture {profile.architecture!r} alone. "
            "Without them the model would be another: config.json was edited, or belongs to another model"
            + _describe_remote_code(profile)
        )


def _check_vocabulary(profile: Profile, model: Any, tokenizer: TextTokenizer) -> None:
    """Refuse a tokenizer whose ids lie beyond the model's table of words."""
    known = model.get_input_embeddings().num_embeddings
    if tokenizer.largest_id >= known:
        raise UnsupportedModelError(
            f"the tokenizer of {profile.name} makes ids up to {tokenizer.largest_id}; the model knows "
            f"{known} words, ids up to {known - 1}. Tokenizer and weights belong to different models"
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
