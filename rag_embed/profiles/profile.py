"""The profile of a checkpoint: pooling, prompts and limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rag_embed.errors import UnsupportedModelError

# Architectures whose forward pass uses transformers' attention interface and takes explicit position ids,
# each checked by a test, so that texts of any lengths share a batch without padding. The value says whether
# their position ids begin behind the padding id (the RoBERTa family) or at zero.
PACKABLE_ARCHITECTURES: Mapping[str, bool] = {
    "bert": False,
    "roberta": True,
    "xlm-roberta": True,
    "camembert": True,
}
_POSITIONS_AFTER_PADDING = frozenset(name for name, after in PACKABLE_ARCHITECTURES.items() if after) | {
    "mpnet"
}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_UNBOUNDED = 1_000_000  # tokenizers write 10**30 where they mean "no limit known"


@dataclass(frozen=True, slots=True)
class Profile:
    """How text becomes vectors with one checkpoint.

    Attributes:
        name: Short name for messages and fingerprints.
        folder: The checkpoint's files.
        weights_sha256: Digest of the weight files, in the order of their names.
        architecture: transformers' `model_type`.
        dim: Size of a vector.
        max_tokens: Most tokens in one forward pass, special tokens included.
        trained_tokens: Length that the checkpoint declares it was trained for; windows of a document are no
            longer by default, because later positions carry states of less worth.
        first_position: Position id of the first token.
        is_packable: Whether texts of different lengths can share a batch without padding.
        query_prefix: Put before every query.
        document_prefix: Put before every document or isolated chunk.
    """

    name: str
    folder: Path
    weights_sha256: str
    architecture: str
    dim: int
    max_tokens: int
    trained_tokens: int
    first_position: int = 0
    is_packable: bool = False
    query_prefix: str = ""
    document_prefix: str = ""


def read_profile(folder: Path, *, name: str) -> Profile:
    """Read a checkpoint's files, in the layout of transformers or sentence-transformers.

    Args:
        folder: Holds config.json, tokenizer.json and safetensors weights; with modules.json the pooling and
            prompts that it declares are checked and used.
        name: What messages and fingerprints call the model.

    Returns:
        The profile. `max_tokens` is what the position table allows, also where sentence-transformers would
        cut earlier: nothing is cut here, longer texts are read in windows.

    Raises:
        UnsupportedModelError: A file is missing, the weights are not safetensors, or the pooling is not the
            mean.
    """
    config = _read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UnsupportedModelError(
            f"{folder} holds no .safetensors weights; expected model.safetensors. "
            "Convert the checkpoint: other formats can run code when they are loaded"
        )
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise UnsupportedModelError(
            f"{folder} holds no tokenizer; expected tokenizer.json. Without it every word would be unknown"
        )
    _require_mean_pooling(folder)
    tokenizer_config = _read_json(folder / "tokenizer_config.json", default={})
    architecture = str(config.get("model_type", ""))
    first_position = 0
    if architecture in _POSITIONS_AFTER_PADDING:
        first_position = _as_int(config.get("pad_token_id"), 1) + 1
    limits = (
        _as_int(config.get("max_position_embeddings"), 512) - first_position,
        _as_int(tokenizer_config.get("model_max_length"), _UNBOUNDED),
    )
    dim = next((_as_int(config[key], 0) for key in ("hidden_size", "dim", "d_model") if key in config), 0)
    if dim == 0:
        raise UnsupportedModelError(
            f"config.json of {folder.name} names no hidden_size; expected the config of an encoder"
        )
    declared = _as_int(_read_json(folder / "sentence_bert_config.json", default={}).get("max_seq_length"), 0)
    prompts = _read_json(folder / "config_sentence_transformers.json", default={}).get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    return Profile(
        name=name,
        folder=folder,
        weights_sha256=hash_files(weights),
        architecture=architecture,
        dim=dim,
        max_tokens=min(limits),
        trained_tokens=min(declared or _UNBOUNDED, *limits),
        first_position=first_position,
        is_packable=architecture in PACKABLE_ARCHITECTURES,
        query_prefix=str(prompts.get("query", "")),
        document_prefix=str(prompts.get("document", prompts.get("passage", ""))),
    )


def hash_files(paths: list[Path]) -> str:
    """SHA-256 over the files' bytes, one after the other, as hexadecimal digits.

    Files are read once per process and again only when their size or time has changed: a fingerprint is asked
    for with every document.
    """
    stats = [path.stat() for path in paths]
    files = zip(paths, stats, strict=True)
    return _hash_unchanged(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in files))


@lru_cache(maxsize=32)
def _hash_unchanged(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _require_mean_pooling(folder: Path) -> None:
    """Refuse a checkpoint that declares another pooling than the mean of its token states."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return
    for module in json.loads(modules.read_text(encoding="utf-8")):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _read_json(folder / str(module["path"]) / "config.json")
            modes = {
                key for key, value in pooling.items() if key.startswith("pooling_mode") and value is True
            }
            declared = {str(pooling["pooling_mode"])} if "pooling_mode" in pooling else modes
            if declared - {"mean", "pooling_mode_mean_tokens"}:
                raise UnsupportedModelError(
                    f"{folder.name} was trained with pooling {sorted(declared)}; late chunking averages "
                    "token "
                    "states and needs a mean-pooled encoder"
                )
        elif kind not in {"Transformer", "Normalize"}:
            raise UnsupportedModelError(
                f"{folder.name} has a module {kind!r} behind its encoder; expected Transformer, Pooling and "
                "Normalize only, because chunk vectors are made of token states"
            )


def _read_json(path: Path, default: dict[str, object] | None = None) -> dict[str, object]:
    if not path.is_file():
        if default is not None:
            return default
        raise UnsupportedModelError(
            f"{path.name} is missing in {path.parent}; expected a whole checkpoint folder"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModelError(f"{path} is not JSON: {error}; the checkpoint is damaged") from error
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{path} holds {type(content).__name__}; expected a JSON object")
    return content


def _as_int(value: object, default: int) -> int:
    """A positive number out of a config, or the default for what is absent or means "no limit"."""
    return int(value) if isinstance(value, int) and 0 <= value < _UNBOUNDED else default
