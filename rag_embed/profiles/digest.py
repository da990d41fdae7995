"""Digests of a checkpoint's files: of weights byte by byte, of settings by what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the files' bytes, one after the other, as hexadecimal digits.

    Files are read once per process and again only when their size or time has changed: a fingerprint is asked
    for with every document.
    """
    files = [(path, path.stat()) for path in paths]
    return _hash_unchanged(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in files))


def hash_settings(*settings: Mapping[str, object]) -> str:
    """SHA-256 over all settings that may decide a vector, as hexadecimal digits.

    A setting that is not known to be idle counts: a new fingerprint for the same vectors costs an index, one
    fingerprint for other vectors costs its worth. Order and white space of the files do not count.
    """
    telling = [{key: value for key, value in each.items() if key not in _IDLE} for each in settings]
    return hashlib.sha256(json.dumps(telling, sort_keys=True, default=str).encode()).hexdigest()


_IDLE = frozenset(
    # who wrote the files, and with what
    {"_name_or_path", "name_or_path", "architectures", "auto_map", "transformers_version", "_commit_hash"}
    | {"tokenizer_file", "special_tokens_map_file", "processor_class", "backend", "is_local"}
    # how it is trained, run and generated with
    | {"torch_dtype", "dtype", "use_cache", "gradient_checkpointing", "output_attentions", "return_dict"}
    | {"output_hidden_states", "attention_probs_dropout_prob", "hidden_dropout_prob", "initializer_range"}
    | {"classifier_dropout", "id2label", "label2id", "problem_type", "finetuning_task", "chat_template"}
    # what is checked by itself: profiles hold the limit, and texts are never cut or padded
    | {"model_max_length", "max_length", "padding", "padding_side", "truncation_side", "stride"}
    | {"truncation_strategy", "pad_to_multiple_of", "clean_up_tokenization_spaces", "_attn_implementation"}
)


@lru_cache(maxsize=32)
def _hash_unchanged(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
