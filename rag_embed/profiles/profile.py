"""The profile of a checkpoint: how its text becomes vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rag_embed.errors import UnsupportedModelError
from rag_embed.modes import Pooling, Precision
from rag_embed.profiles.digest import hash_files, hash_settings
from rag_embed.profiles.families import GENERIC, MULTI_VECTOR, find_family
from rag_embed.profiles.family import Family
from rag_embed.profiles.layout import Layout, as_int, read_layout
from rag_embed.profiles.multi_vector import MultiVector

# Architectures whose forward pass uses transformers' attention interface and takes explicit position ids,
# each checked by a test, so that texts of any lengths share a batch without padding. The value says whether
# their position ids begin behind the padding id (the RoBERTa family) or at zero.
PACKABLE_ARCHITECTURES: Mapping[str, bool] = {
    "bert": False,
    "roberta": True,
    "xlm-roberta": True,
    "camembert": True,
    "qwen3": False,
    "bidirectional_pplx_qwen3": False,
    "jina_embeddings_v3": False,
}
_POSITIONS_AFTER_PADDING = frozenset(name for name, after in PACKABLE_ARCHITECTURES.items() if after) | {
    "mpnet"
}
# Decoders that attend to earlier tokens only. Loading finds out about any that is not listed.
_CAUSAL_ARCHITECTURES = frozenset(
    {"gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "phi3", "qwen2", "qwen3"}
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How text becomes vectors with one checkpoint.

    Attributes:
        name: Short name for messages and fingerprints.
        folder: The checkpoint's files.
        weights_sha256: Digest of the weight files, in the order of their names, and of those of a head.
        tokenizer_sha256: Digest of the files that decide how text is cut.
        settings_sha256: Digest of what config.json and the tokenizer's settings say: layers, heads,
            activation and all else that may decide a state.
        architecture: transformers' `model_type`, or the name of an own module.
        family: What is known of its family.
        dim: Size of a token state, or of the token vector that a head makes of it.
        max_tokens: Most tokens in one forward pass, special tokens included.
        trained_tokens: Length that the checkpoint declares it was trained for; windows of a document are no
            longer by default, because later positions carry states of less worth.
        first_position: Position id of the first token.
        is_packable: Whether texts of different lengths can share a batch without padding.
        pooling: Which token states make the vector of one text.
        is_causal: Whether a token attends to earlier tokens only.
        is_lowercased: Whether text is put into lower case before it is tokenised.
        query_prefix: Put before every query.
        document_prefix: Put before every document or isolated chunk.
        separator: Token between the chunks of a document; empty if the model does not embed them together.
        remote_code: What `auto_map` names, which is never run.
        multi_vector: How token vectors are made, of a model that was trained to compare them: each token
            state goes through its head, and the vector of a text is the mean of its token vectors.
    """

    name: str
    folder: Path
    weights_sha256: str
    tokenizer_sha256: str
    settings_sha256: str
    architecture: str
    family: Family
    dim: int
    max_tokens: int
    trained_tokens: int
    first_position: int = 0
    is_packable: bool = False
    pooling: Pooling = "mean"
    is_causal: bool = False
    is_lowercased: bool = False
    query_prefix: str = ""
    document_prefix: str = ""
    separator: str = ""
    remote_code: tuple[str, ...] = ()
    multi_vector: MultiVector | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of everything in the checkpoint that decides a vector, prefixes apart."""
        parts = [
            self.weights_sha256,
            self.tokenizer_sha256,
            self.settings_sha256,
            self.max_tokens,
            self.pooling,
            self.is_causal,
            self.is_lowercased,
            self.separator,
            self.family.end_token,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def encoder_dim(self) -> int:
        """Size of a token state, before any head."""
        layers = self.multi_vector.layers if self.multi_vector else ()
        return layers[0].in_dim if layers else self.dim

    @property
    def allows_late_chunking(self) -> bool:
        """Whether averaging a chunk's token states out of its document is near what it was trained for."""
        return self.pooling == "mean" and not self.is_causal and not self.separator

    @property
    def has_list_prompt(self) -> bool:
        """Whether it was trained to rerank by a prompt that shows a list of candidates."""
        return self.family.list_prompt != ""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Forms of a vector that it was trained for."""
        return self.family.precisions


def read_profile(folder: Path, *, name: str) -> Profile:
    """Read a checkpoint's files, in the layout of transformers or sentence-transformers.

    What the files declare goes before what is known of the family; a prompt declared as the empty string
    counts as none, because sentence-transformers writes that by itself.

    Args:
        folder: Holds config.json, tokenizer.json and safetensors weights; with modules.json the pooling and
            prompts that it declares are checked and used.
        name: What messages and fingerprints call the model.

    Returns:
        The profile. `max_tokens` is the least of position table, tokenizer limit and what the family was
        trained for, also where sentence-transformers would cut earlier: nothing is cut here, longer texts are
        read in windows.

    Raises:
        UnsupportedModelError: A file is missing, the weights are not safetensors, or the files ask for
            something that is not done here.
    """
    layout = read_layout(folder)
    config = layout.config
    architecture = _name_architecture(config)
    remote_code = _list_remote_code(config)
    multi_vector = layout.multi_vector
    family = MULTI_VECTOR
    if multi_vector is None:
        family = find_family(architecture, [name, str(config.get("_name_or_path", "")), *remote_code])
        _check_modules(layout, family, name)
    first_position = 0
    if architecture in _POSITIONS_AFTER_PADDING:
        first_position = as_int(config.get("pad_token_id"), 1) + 1
    limits = (
        as_int(config.get("max_position_embeddings"), min(family.max_tokens, 512)) - first_position,
        layout.tokenizer_limit,
        family.max_tokens,
    )
    dim = next((as_int(config[key], 0) for key in ("hidden_size", "dim", "d_model") if key in config), 0)
    if dim == 0:
        raise UnsupportedModelError(
            f"config.json of {folder.name} names no hidden_size; expected the config of an encoder"
        )
    if multi_vector is not None:
        dim = _find_token_dim(multi_vector, dim, layout, architecture)
    is_causal = family.is_causal or architecture in _CAUSAL_ARCHITECTURES
    return Profile(
        name=name,
        folder=layout.folder,
        weights_sha256=hash_files([*layout.weights, *(multi_vector.weights if multi_vector else ())]),
        tokenizer_sha256=hash_files(layout.tokenizer),
        settings_sha256=hash_settings(
            config, *layout.tokenizer_settings, *([multi_vector.settings] if multi_vector else [])
        ),
        architecture=architecture,
        family=family,
        dim=dim,
        max_tokens=min(limits),
        trained_tokens=min((multi_vector and multi_vector.trained_tokens) or layout.trained_tokens, *limits),
        first_position=first_position,
        is_packable=architecture in PACKABLE_ARCHITECTURES and not config.get("use_sliding_window"),
        pooling=_choose_pooling(layout, family, name, is_causal=is_causal),
        is_causal=is_causal,
        is_lowercased=layout.is_lowercased,
        query_prefix=layout.query_prefix or str(config.get("query_prefix") or family.query_prefix),
        document_prefix=layout.document_prefix
        or str(config.get("document_prefix") or family.document_prefix),
        separator=str(config.get("boundary_marker") or family.separator) if family.separator else "",
        remote_code=remote_code,
        multi_vector=multi_vector,
    )


def _find_token_dim(multi_vector: MultiVector, dim: int, layout: Layout, architecture: str) -> int:
    """Size of a token vector, of a head that fits its encoder."""
    layers, expansion = multi_vector.layers, multi_vector.expansion
    if layers and layers[0].in_dim != dim:
        raise UnsupportedModelError(
            f"the head in {layers[0].weights.parent} takes vectors of {layers[0].in_dim} dimensions; the "
            f"encoder in {layout.folder} gives {dim}. Head and encoder belong to different models"
        )
    if architecture == "jina-bert" and expansion is not None and not expansion.is_attended:
        raise UnsupportedModelError(
            f"{layout.folder} expands queries by tokens that the others do not see, which Jina v2's own "
            "module cannot do; expected attend true, or no query_expansion"
        )
    return layers[-1].out_dim if layers else dim


def _name_architecture(config: Mapping[str, object]) -> str:
    """Transformers' model type; Jina v2 calls itself "bert" and is told by its position bias."""
    model_type = str(config.get("model_type", ""))
    if model_type == "bert" and config.get("position_embedding_type") == "alibi":
        return "jina-bert"
    return model_type


def _list_remote_code(config: Mapping[str, object]) -> tuple[str, ...]:
    named = config.get("auto_map")
    return tuple(sorted(map(str, named.values()))) if isinstance(named, dict) else ()


def _check_modules(layout: Layout, family: Family, name: str) -> None:
    """Refuse what stands behind the pooling and changes vectors in a way that is not done here."""
    for kind in layout.other_modules:
        if kind not in family.known_modules:
            raise UnsupportedModelError(
                f"{name} has a module {kind!r} behind its encoder; expected Transformer, Pooling and "
                "Normalize only, because chunk vectors are made of token states"
            )
    if layout.similarity not in {"cosine", "dot"} or (
        layout.similarity == "dot" and layout.is_unit_length is False
    ):
        raise UnsupportedModelError(
            f"{name} declares that its vectors are compared by {layout.similarity} without being normalised; "
            "expected cosine, because vectors here have length 1 and lengths would be lost"
        )


def _choose_pooling(layout: Layout, family: Family, name: str, *, is_causal: bool) -> Pooling:
    if layout.multi_vector is not None:
        return "mean"
    if layout.pooling is not None:
        return layout.pooling
    if family is GENERIC and is_causal:
        raise UnsupportedModelError(
            f"{name} is a decoder of no family known here, and has no modules.json that declares its "
            "pooling; expected one. Guessing between mean and last token would degrade it silently"
        )
    return family.pooling
