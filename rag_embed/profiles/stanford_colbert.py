"""Stanford's layout of ColBERT: the head lies among the encoder's weights, settings in artifact.metadata."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rag_embed.errors import UnsupportedModelError
from rag_embed.profiles.dense_layer import DenseLayer
from rag_embed.profiles.files import read_json
from rag_embed.profiles.multi_vector import MultiVector, QueryExpansion, read_length

METADATA = "artifact.metadata"
_HEAD = "linear.weight"


def is_stanford_colbert(config: Mapping[str, object]) -> bool:
    """Whether config.json names Stanford's class."""
    named = config.get("architectures")
    return isinstance(named, list) and "HF_ColBERT" in named


def read_stanford_prompts(folder: Path) -> Mapping[str, object]:
    """Its markers of queries and documents, as sentence-transformers would write them down."""
    settings = read_json(folder / METADATA, default={})
    names = {"query": ("query_token_id", "[unused0]"), "document": ("doc_token_id", "[unused1]")}
    prompts = {side: f"{settings.get(key) or default} " for side, (key, default) in names.items()}
    return {"prompts": prompts, "similarity_fn_name": "maxsim"}


def read_stanford_colbert(folder: Path) -> MultiVector:
    """Read a checkpoint of Stanford's, with its defaults where it makes no statement.

    Raises:
        UnsupportedModelError: A file is missing or damaged, or there is no head.
    """
    settings = read_json(folder / METADATA, default={})
    length = read_length(folder, settings.get("query_maxlen")) or 32
    prompts = read_stanford_prompts(folder)["prompts"]
    assert isinstance(prompts, dict)
    return MultiVector(
        layers=(_read_head(folder / "model.safetensors"),),
        skipped_words=tuple(string.punctuation) if settings.get("mask_punctuation", True) else (),
        expansion=QueryExpansion(length, bool(settings.get("attend_to_mask_tokens")), None),
        trained_tokens=read_length(folder, settings.get("doc_maxlen")) or 0,
        marker_prefixes=tuple(prompts.values()),
    )


def _read_head(weights: Path) -> DenseLayer:
    try:
        with safe_open(weights, framework="numpy") as file:
            shape = tuple(file.get_slice(_HEAD).get_shape())
    except (SafetensorError, OSError) as error:
        raise UnsupportedModelError(
            f"{weights} gives no {_HEAD!r} ({error}), which config.json promises (HF_ColBERT); expected an "
            "undamaged file with encoder and head"
        ) from error
    if len(shape) != 2 or 0 in shape:
        raise UnsupportedModelError(
            f"{_HEAD!r} in {weights} has shape {list(shape)}; expected a matrix, from states to token vectors"
        )
    return DenseLayer(weights, in_dim=shape[1], out_dim=shape[0], is_alone=False)
