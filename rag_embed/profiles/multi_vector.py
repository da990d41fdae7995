"""What a trained multi-vector checkpoint declares behind its encoder: its head, and which tokens it compares.

Three layouts say it: sentence-transformers' `MultiVectorEncoder`, PyLate's before that, which left mask and
normalisation to its code, and Stanford's ColBERT with the head among the encoder's weights. The older two
are read as sentence-transformers reads them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rag_embed.errors import UnsupportedModelError
from rag_embed.profiles.dense_layer import STATES, DenseLayer, read_layer, reads_states
from rag_embed.profiles.files import locate_inside, read_json

_KINDS = ("Transformer", "Dense", "MultiVectorMask", "Normalize")
_SIMILARITIES = ("maxsim", "meanmaxsim", "cosine", "dot", "none")
# What PyLate wrote beside the prompts, before sentence-transformers had the modules for it.
_PYLATE_KEYS = frozenset(
    {"query_length", "document_length", "query_expansion", "do_query_expansion", "skiplist_words"}
    | {"attend_to_expansion_tokens", "attend_to_mask_tokens", "query_prefix", "document_prefix"}
)


@dataclass(frozen=True, slots=True)
class QueryExpansion:
    """Tokens behind a short query, which are compared like its own.

    Attributes:
        length: Tokens of a query with them, special tokens included; a longer query gets none and is not cut.
        is_attended: Whether the query's tokens see them. They see the query's in any case.
        token: Which; None is the tokenizer's mask token, or its end token where it has none.
    """

    length: int
    is_attended: bool
    token: str | None


@dataclass(frozen=True, slots=True)
class MultiVector:
    """How a checkpoint makes the token vectors that it was trained to compare.

    Attributes:
        layers: The head, from states to token vectors, which are normalised behind it.
        skipped_words: Tokens that are not compared, mostly punctuation. One that the vocabulary lacks stands
            for nothing.
        skipping_sides: "query", "document", or both: whose tokens are skipped.
        expansion: What stands behind queries, if anything.
        trained_tokens: Length of the documents that it was trained with; 0 if it does not say.
        marker_prefixes: Of the older layouts, which put in ids: one token where the vocabulary knows it (or
            its first word), although the tokenizer would cut it.
    """

    layers: tuple[DenseLayer, ...]
    skipped_words: tuple[str, ...] = ()
    skipping_sides: tuple[str, ...] = ("document",)
    expansion: QueryExpansion | None = None
    trained_tokens: int = 0
    marker_prefixes: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[Path, ...]:
        """Files of the head, which are not the encoder's."""
        return tuple(layer.weights for layer in self.layers if layer.is_alone)

    @property
    def settings(self) -> Mapping[str, object]:
        """All that decides a token vector, beside weights and prefixes."""
        content = asdict(self)
        content["layers"] = [asdict(layer) | {"weights": ""} for layer in self.layers]
        del content["trained_tokens"]  # decides how long windows are, which is an option
        return content


def is_multi_vector(settings: Mapping[str, object], kinds: Sequence[str]) -> bool:
    """Whether config_sentence_transformers.json or the kinds of modules say that tokens are compared."""
    named = settings.get("model_type")
    return (
        named in ("MultiVectorEncoder", "ColBERT")
        or "MultiVectorMask" in kinds
        or (named is None and bool(_PYLATE_KEYS & set(settings)))
    )


def read_multi_vector(
    root: Path,
    modules: Sequence[tuple[str, str]],
    *,
    settings: Mapping[str, object],
    encoder_settings: Mapping[str, object],
) -> MultiVector:
    """Read what the modules behind the encoder declare.

    Args:
        root: The checkpoint.
        modules: Kind and folder of each, in their order.
        settings: Its config_sentence_transformers.json.
        encoder_settings: Its sentence_bert_config.json.

    Raises:
        UnsupportedModelError: A file is damaged, a layer does not fit the one before it, or the checkpoint
            asks for something that is not done here.
    """
    is_native = settings.get("model_type") == "MultiVectorEncoder"
    _check_order(root, [kind for kind, _ in modules])
    _check_encoder(root, encoder_settings)
    _check_similarity(root, settings)
    layers: list[DenseLayer] = []
    words = None if is_native else _read_words(root, settings.get("skiplist_words"))
    if words is None and (settings.get("model_type") == "ColBERT" or {"query_prefix"} & set(settings)):
        words = tuple(string.punctuation)  # PyLate's default, which it did not write down
    sides: tuple[str, ...] = ("document",)
    is_normalised = not is_native
    for kind, path in modules[1:]:
        folder = locate_inside(root, path)
        if kind == "Dense":
            layers.append(read_layer(folder, layers[-1] if layers else None))
        elif kind == "MultiVectorMask":
            config = read_json(folder / "config.json")
            words = _read_words(folder, config.get("skiplist_words")) or ()
            sides = _read_sides(folder, config)
        else:
            is_normalised |= reads_states(folder / "config.json", "sentence_embedding")
    if not is_normalised:
        raise UnsupportedModelError(
            f"modules.json of {root} normalises no token vectors; expected a Normalize module with "
            f"module_input_name {STATES!r} at the end, because token vectors here have length 1 and lengths "
            "would be lost"
        )
    return MultiVector(
        layers=tuple(layers),
        skipped_words=words or (),
        skipping_sides=sides,
        expansion=_read_expansion(root, settings, encoder_settings),
        trained_tokens=read_length(root, {**settings, **encoder_settings}.get("document_length")) or 0,
        marker_prefixes=tuple(str(settings.get(f"{side}_prefix") or "") for side in ("query", "document")),
    )


def join_prefix(settings: Mapping[str, object], side: str, prompt: str | None) -> str | None:
    """PyLate's prefix of a side in front of its prompt, where there is one and it is not there already."""
    prefix = str(settings.get(f"{side}_prefix") or "")
    return prefix + (prompt or "").removeprefix(prefix) if prefix else prompt


def _check_order(root: Path, kinds: Sequence[str]) -> None:
    path = root / "modules.json"
    if unknown := [kind for kind in kinds if kind not in _KINDS]:
        raise UnsupportedModelError(
            f"{path} has a module {unknown[0]!r} in a multi-vector model; expected {', '.join(_KINDS)} only. "
            "Another would change token vectors, or how many there are, in a way that is not done here"
        )
    if kinds[:1] != ["Transformer"] or any(kinds.count(kind) > 1 for kind in kinds if kind != "Dense"):
        raise UnsupportedModelError(
            f"{path} lists {list(kinds)}; expected one Transformer at the beginning, and one each of "
            "MultiVectorMask and Normalize at most"
        )
    if "Dense" in kinds and "Normalize" in kinds[: max(i for i, kind in enumerate(kinds) if kind == "Dense")]:
        raise UnsupportedModelError(
            f"{path} lists {list(kinds)}; expected Normalize behind all Dense layers, which is where token "
            "vectors are normalised here"
        )


def _check_encoder(root: Path, settings: Mapping[str, object]) -> None:
    """Refuse an encoder that is not simply asked for its last states, or is handed more than a text."""
    modalities = settings.get("modality_config")
    plain = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    found = {
        "transformer_task": settings.get("transformer_task", "feature-extraction") != "feature-extraction",
        "modality_config": modalities is not None and modalities != plain,
        "module_output_name": settings.get("module_output_name", STATES) != STATES,
        "processing_kwargs": bool(settings.get("processing_kwargs")),
    }
    if wrong := [key for key, is_wrong in found.items() if is_wrong]:
        raise UnsupportedModelError(
            f"{root / 'sentence_bert_config.json'} has {wrong[0]} {str(settings.get(wrong[0]))[:120]}; "
            "expected texts whose last hidden states are the token states. Images, chat templates and "
            "changed tokenisation are not done here"
        )


def _check_similarity(root: Path, settings: Mapping[str, object]) -> None:
    found = str(settings.get("similarity_fn_name") or "none")
    if found.lower() not in _SIMILARITIES:
        raise UnsupportedModelError(
            f"{root / 'config_sentence_transformers.json'} compares by {found!r}; expected maxsim or "
            "meanmaxsim, which put candidates in the order that is computed here"
        )


def _read_words(path: Path, words: object) -> tuple[str, ...] | None:
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UnsupportedModelError(
            f"skiplist_words in {path} are {str(words)[:80]}; expected a list of tokens"
        )
    return tuple(words)


def _read_sides(folder: Path, config: Mapping[str, object]) -> tuple[str, ...]:
    path = folder / "config.json"
    tasks = config.get("skiplist_tasks", ["document"])
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not isinstance(tasks, list) or not all(task in ("query", "document") for task in tasks):
        raise UnsupportedModelError(
            f"{path} has skiplist_tasks {str(tasks)[:80]}; expected 'query', 'document' or both"
        )
    if config.get("keep_only_token_ids"):
        raise UnsupportedModelError(
            f"{path} has keep_only_token_ids, which leaves a document nothing but the patches of page "
            "images; expected a model of text"
        )
    return tuple(tasks)


def _read_expansion(
    root: Path, settings: Mapping[str, object], encoder_settings: Mapping[str, object]
) -> QueryExpansion | None:
    """The expansion, in its own form or in PyLate's, which expanded unless told otherwise."""
    given = encoder_settings.get("query_expansion", settings.get("query_expansion"))
    is_told = "query_expansion" in encoder_settings or "query_expansion" in settings
    if not is_told and _PYLATE_KEYS & set(settings) and settings.get("do_query_expansion") is not False:
        attends = settings.get("attend_to_expansion_tokens", settings.get("attend_to_mask_tokens"))
        length = settings.get("query_length") or 32
        given = {"strategy": "fixed", "attend": bool(attends), "length": length}
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("strategy") not in ("fixed", "min"):
        raise UnsupportedModelError(
            f"query_expansion of {root} is {str(given)[:120]}; expected the strategy 'fixed' or 'min'"
        )
    length = read_length(root, given.get("length"))
    attends, token = given.get("attend", False), given.get("token")
    if length is None or not isinstance(attends, bool) or not isinstance(token, str | None):
        raise UnsupportedModelError(
            f"query_expansion of {root} is {str(given)[:120]}; expected a length, attend as true or false, "
            "and a token or none"
        )
    return QueryExpansion(length, attends, token)


def read_length(root: Path, length: object) -> int | None:
    """Check a number of tokens; None if none is stated."""
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise UnsupportedModelError(
            f"a query_length, document_length or expansion of {root} is {str(length)[:40]!r}; expected a "
            "positive whole number of tokens"
        )
    return length
