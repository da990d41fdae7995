"""What a checkpoint's files declare, in the layout of transformers or sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_embed.errors import UnsupportedModelError
from rag_embed.modes import Pooling
from rag_embed.profiles.files import check_files, locate_inside, parse_json, read_json
from rag_embed.profiles.multi_vector import MultiVector, is_multi_vector, join_prefix, read_multi_vector
from rag_embed.profiles.stanford_colbert import (
    is_stanford_colbert,
    read_stanford_colbert,
    read_stanford_prompts,
)

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
UNBOUNDED = 1_000_000  # tokenizers write 10**30 where they mean "no limit known"

_POOLINGS: Mapping[str, Pooling] = {
    "mean": "mean",
    "pooling_mode_mean_tokens": "mean",
    "cls": "cls",
    "pooling_mode_cls_token": "cls",
    "lasttoken": "last-token",
    "pooling_mode_lasttoken": "last-token",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """A checkpoint's own statements; None where it makes none.

    Attributes:
        folder: Where config, weights and tokenizer lie: the root, or the folder of the first module.
        config: Its config.json.
        weights: Its safetensors files, in the order of their names.
        tokenizer: The files that decide how text is cut.
        tokenizer_settings: What else loading a tokenizer reads.
        tokenizer_limit: The tokenizer's `model_max_length`.
        pooling: Which token states make a vector.
        is_unit_length: Whether a Normalize module stands at the end.
        other_modules: Kinds of modules that are none of sentence-transformers' three.
        trained_tokens: `max_seq_length`.
        is_lowercased: Whether text is put into lower case before it is tokenised.
        query_prefix: Prompt of queries.
        document_prefix: Prompt of documents.
        similarity: What compares its vectors.
        multi_vector: How it makes token vectors, if it was trained to compare them.
    """

    folder: Path
    config: Mapping[str, object]
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    tokenizer_settings: tuple[Mapping[str, object], ...]
    tokenizer_limit: int
    pooling: Pooling | None
    is_unit_length: bool | None
    other_modules: tuple[str, ...]
    trained_tokens: int
    is_lowercased: bool
    query_prefix: str | None
    document_prefix: str | None
    similarity: str
    multi_vector: MultiVector | None


def read_layout(root: Path) -> Layout:
    """Read a checkpoint's files; no weights, and no code of the checkpoint's.

    Raises:
        UnsupportedModelError: A file is missing or damaged, the weights are not safetensors, or the pooling
            is none that is known here.
    """
    check_files(root)
    modules = _read_modules(root)
    paths = {kind: locate_inside(root, path) for kind, path in modules}
    folder = paths.get("Transformer", root)
    check_files(folder)
    config = read_json(folder / "config.json")
    settings = read_json(folder / "sentence_bert_config.json", default={})
    prompts = read_json(root / "config_sentence_transformers.json", default={})
    is_stanford = is_stanford_colbert(config) and not modules
    if is_stanford:
        prompts = read_stanford_prompts(folder)
    multi_vector = None
    if is_stanford:
        multi_vector = read_stanford_colbert(folder)
    elif is_multi_vector(prompts, [kind for kind, _ in modules]):
        multi_vector = read_multi_vector(root, modules, settings=prompts, encoder_settings=settings)
    tokenizer_settings = tuple(read_json(folder / name, default={}) for name in _TOKENIZER_SETTINGS)
    pooling = _read_pooling(paths["Pooling"], root.name) if "Pooling" in paths else None
    known = {"Transformer", "Pooling", "Normalize"}
    return Layout(
        folder=folder,
        config=config,
        weights=_list_weights(folder),
        tokenizer=_list_tokenizer(folder),
        tokenizer_settings=tokenizer_settings,
        tokenizer_limit=as_int(tokenizer_settings[0].get("model_max_length"), UNBOUNDED),
        pooling=pooling,
        is_unit_length="Normalize" in paths if modules else None,
        other_modules=tuple(kind for kind, _ in modules if kind not in known),
        trained_tokens=_read_length(settings, root.name) or UNBOUNDED,
        is_lowercased=settings.get("do_lower_case") is True,
        query_prefix=join_prefix(prompts, "query", _find_prompt(prompts, "query")),
        document_prefix=join_prefix(
            prompts, "document", _find_prompt(prompts, "document", "passage", "corpus")
        ),
        similarity=str(prompts.get("similarity_fn_name") or "cosine"),
        multi_vector=multi_vector,
    )


def as_int(value: object, default: int) -> int:
    """A positive number out of a config, or the default for what is absent or means "no limit"."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < UNBOUNDED
    return int(value) if is_number else default  # type: ignore[call-overload]


def _read_length(settings: Mapping[str, Any], name: str) -> int:
    """`max_seq_length`; 0 where none is declared."""
    length = settings.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 0):
        raise UnsupportedModelError(
            f"{name} declares max_seq_length {length!r}; expected a number. Its settings are damaged"
        )
    return as_int(length, 0)


def _read_modules(root: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in their order; none in a plain transformers folder."""
    path = root / "modules.json"
    if not path.is_file():
        return []
    modules = parse_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UnsupportedModelError(f"{path} is no list of modules; the checkpoint is damaged")
    return [(str(m.get("type", "")).rsplit(".", 1)[-1], str(m.get("path", ""))) for m in modules]


def _read_pooling(folder: Path, name: str) -> Pooling:
    """The one pooling that a config declares, in its old form (a switch each) or its new one (a name)."""
    config = read_json(folder / "config.json")
    named = config.get("pooling_mode")
    switched = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    declared = (
        [str(mode) for mode in named] if isinstance(named, list) else [str(named)] if named else switched
    )
    if config.get("include_prompt") is False:
        raise UnsupportedModelError(
            f"{name} leaves its prompts out of the average (include_prompt is false); expected a model that "
            "pools all tokens. Such instruction models are not supported"
        )
    if len(declared) > 1 or not set(declared) <= set(_POOLINGS):
        raise UnsupportedModelError(
            f"{name} was trained with pooling {declared}; expected one of mean, cls and last token, because "
            "nothing else is known here"
        )
    return _POOLINGS[declared[0]] if declared else "mean"  # sentence-transformers' default


def _find_prompt(settings: Mapping[str, object], *names: str) -> str | None:
    """The first declared prompt; of queries and documents alike the default one if they have none."""
    prompts = settings.get("prompts")
    if not isinstance(prompts, dict):
        return None
    for name in (*names, settings.get("default_prompt_name")):
        if isinstance(name, str) and prompts.get(name) is not None:
            return str(prompts[name])
    return None


def _list_weights(folder: Path) -> tuple[Path, ...]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        for name in names:
            if locate_inside(folder, name).parent != folder:
                raise UnsupportedModelError(
                    f"{index} names a part {name!r} in a folder of its own; expected all parts beside it"
                )
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise UnsupportedModelError(
                f"{missing[0]} is missing in {folder}, {len(missing)} of {len(names)} parts of the weights; "
                "expected all that model.safetensors.index.json lists"
            )
    weights = tuple(sorted(folder.glob("*.safetensors")))
    if not weights:
        raise UnsupportedModelError(
            f"{folder} holds no .safetensors weights; expected model.safetensors. "
            "Convert the checkpoint: other formats can run code when they are loaded"
        )
    return weights


def _list_tokenizer(folder: Path) -> tuple[Path, ...]:
    files = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
    if not files:
        raise UnsupportedModelError(
            f"{folder} holds no tokenizer; expected tokenizer.json. Without it every word would be unknown"
        )
    return files[:1] if files[0].name == "tokenizer.json" else files
