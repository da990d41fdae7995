"""Checkpoints that other engines serve: the weights as they are, and with an adapter merged into them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rag_embed.adapter import Adapter, merge_adapter
from rag_embed.checkpoint import load_checkpoint
from rag_embed.errors import InputError, UnsupportedModelError
from rag_embed.profiles import Profile
from rag_embed.profiles.files import read_json
from rag_embed.recipe import Recipe

BASE = "base"
"""Folder of the weights that read queries, and chunks alone."""
CONTEXT = "context"
"""Folder of the weights that read windows."""
_COPIED = ("*.json", "*.txt", "*.model", "*.md")
_COPIED_OF_MODULES = ("*.json", "*.safetensors")


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        base: Checkpoint for `server=`.
        context: Checkpoint for `context_server=`; None without an adapter.
        adapter: What is merged into it.
    """

    base: Path
    context: Path | None
    adapter: str | None


def export_checkpoints(recipe: Recipe, folder: Path) -> Export:
    """Write the servable checkpoints of a recipe: config, tokenizer, safetensors, module files.

    All is written into a folder beside it, which is then renamed: it is there whole or not at all.

    Args:
        recipe: Which model, and which adapter.
        folder: Made; must not be there, or be empty.

    Raises:
        InputError: The folder holds something, or cannot be written.
        UnsupportedModelError: The model has a head behind its states, or the adapter does not fit.
    """
    profile, adapter = recipe.profile, recipe.located_adapter
    if profile.multi_vector is not None:
        raise UnsupportedModelError(
            f"{profile.name} makes its token vectors by a head behind its states, which engines leave out; "
            "expected a model without one"
        )
    if recipe.shares_layers:
        raise UnsupportedModelError(
            f"adapter {recipe.adapter!r} shares layers between two readings of a chunk; engines cannot; "
            "expected one of the whole encoder. Use engine='vllm' in the recipe, or name one"
        )
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is there and not empty; expected a new folder. Name another, or remove it"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _copy(profile, draft / BASE)
            if adapter is not None:
                _copy(profile, draft / CONTEXT)
                _merge(profile, adapter, draft / CONTEXT)
            draft.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error}); expected room and permission. Name another folder"
        ) from error
    return Export(folder / BASE, folder / CONTEXT if adapter else None, adapter.name if adapter else None)


def _copy(profile: Profile, target: Path) -> None:
    """Copy a checkpoint without code and without weights in other formats."""
    root = profile.folder
    if not (root / "modules.json").is_file() and (root.parent / "modules.json").is_file():
        raise UnsupportedModelError(
            f"{profile.name} keeps its encoder in the folder {root.name!r} of its modules; expected one that "
            "has config.json beside modules.json, which is what engines load"
        )
    target.mkdir()
    for pattern in (*_COPIED, "*.safetensors"):
        for path in sorted(root.glob(pattern)):
            shutil.copyfile(path, target / path.name)
    for module in sorted(path for path in root.iterdir() if path.is_dir() and path.name[:1].isdigit()):
        (target / module.name).mkdir()
        for pattern in _COPIED_OF_MODULES:
            for path in sorted(module.glob(pattern)):
                shutil.copyfile(path, target / module.name / path.name)
    _declare_length(profile, target)


def _declare_length(profile: Profile, target: Path) -> None:
    """Declare all that the model can read: vLLM refuses what is longer than `max_seq_length`.

    all-MiniLM-L6-v2 declares 256 tokens and has 512 positions, which windows fill.
    """
    path = target / "sentence_bert_config.json"
    settings = read_json(path, default={})
    if "max_seq_length" in settings:
        path.write_text(
            json.dumps({**settings, "max_seq_length": profile.max_tokens}, indent=2), encoding="utf-8"
        )


def _merge(profile: Profile, adapter: Adapter, target: Path) -> None:
    """Replace the tensors that an adapter changes by their sum with it, in float32 as it is computed here."""
    cpu = torch.device("cpu")
    model = load_checkpoint(profile, cpu, torch.float32).model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    merge_adapter(model, adapter, weights_sha256=profile.weights_sha256)
    changed = {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if not torch.equal(weight, before[name])
    }
    found: set[str] = set()
    for path in sorted(target.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        replaced = _find(changed, tensors)
        found |= set(replaced)
        if replaced:
            path.unlink()  # the copy may be a link to a file that others read
            save_file(tensors | {key: changed[n].contiguous() for n, key in replaced.items()}, path, metadata)
    if missing := sorted(set(changed) - found):
        raise UnsupportedModelError(
            f"adapter {adapter.name!r} changes {missing[0]!r}, which {profile.name} stores under another "
            "name; expected the names of the loaded model. This checkpoint cannot be exported with an adapter"
        )


def _find(
    changed: Mapping[str, Float[Tensor, "..."]], tensors: Mapping[str, Float[Tensor, "..."]]
) -> dict[str, str]:
    """Which stored tensor each changed one is: of the same name, or with a prefix such as "bert."."""
    found = {}
    for name, weight in changed.items():
        keys = [key for key in tensors if key == name or key.endswith(f".{name}")]
        if len(keys) == 1 and tensors[keys[0]].shape == weight.shape:
            found[name] = keys[0]
    return found
