"""Tiny random multi-vector checkpoints: saved by sentence-transformers' own class, or in older layouts."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    MPNetConfig,
    PretrainedConfig,
    XLMRobertaConfig,
)

from tests.checkpoints import DIM, write_json
from tests.checkpoints_families import (
    _bert,
    _modernbert,
    _positions_behind_padding,
    write_byte_level,
    write_sentencepiece,
    write_stock,
    write_wordpiece,
)

BACKBONES: Mapping[str, tuple[Callable[[Path], int], Callable[[int], PretrainedConfig]]] = {
    "bert": (write_wordpiece, _bert),
    "modernbert": (write_wordpiece, _modernbert),
    "mpnet": (write_byte_level, _positions_behind_padding(MPNetConfig)),
    "xlm-roberta": (write_sentencepiece, _positions_behind_padding(XLMRobertaConfig)),
}

Layer = tuple[int, bool, nn.Module, bool]
"""Size of what it gives, whether it has a bias, what stands behind it, whether it is residual."""

HEADS: Mapping[str, Sequence[Layer]] = {
    "none": (),
    "one": ((12, False, nn.Identity(), False),),
    "two": ((20, True, nn.GELU(), False), (12, True, nn.Tanh(), False)),
    "residual": ((DIM, True, nn.SiLU(), True), (12, False, nn.ReLU(), True)),
}
PUNCTUATION = list(string.punctuation)
STATES = "token_embeddings"


def write_backbone(folder: Path, backbone: str, markers: Sequence[str] = ()) -> Path:
    """Write an encoder; its tokenizer knows the markers as tokens of their own, as PyLate adds them."""
    folder.mkdir(parents=True)
    write_tokenizer, make_config = BACKBONES[backbone]
    vocab_size = write_tokenizer(folder)
    if markers:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(markers))
        tokenizer.save_pretrained(folder)
        vocab_size = len(tokenizer)
    write_stock(folder, make_config(vocab_size))
    return folder


def make_head(layers: Sequence[Layer], seed: int = 5) -> list[Dense]:
    """Random layers, the first of which takes token states."""
    dims = [DIM, *(layer[0] for layer in layers)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [
            Dense(
                dims[number],
                out_dim,
                bias=bias,
                activation_function=activation,
                module_input_name=STATES,
                use_residual=residual,
            )
            for number, (out_dim, bias, activation, residual) in enumerate(layers)
        ]


def write_multi_vector(
    parent: Path,
    *,
    backbone: str = "bert",
    head: str = "one",
    prompts: Mapping[str, str] | None = None,
    skiplist: Sequence[str] = PUNCTUATION,
    skipping: Sequence[str] = ("document",),
    **lengths: object,
) -> Path:
    """Save sentence-transformers' own class; `lengths` are those of its Transformer module."""
    transformer = Transformer(str(write_backbone(parent / "backbone", backbone)), **lengths)
    model = MultiVectorEncoder(
        modules=[
            transformer,
            *make_head(HEADS[head]),
            MultiVectorMask(list(skiplist), skiplist_tasks=list(skipping)),
            Normalize(module_input_name=STATES),
        ],
        prompts=dict(prompts or {}),
    )
    model.save_pretrained(str(parent / "multi-vector"), create_model_card=False)
    return parent / "multi-vector"


def write_pylate(
    parent: Path,
    *,
    backbone: str = "bert",
    markers: Sequence[str] = ("[Q] ", "[D] "),
    model_type: str | None = "ColBERT",
    **settings: object,
) -> Path:
    """Write PyLate's layout by hand: [Transformer, Dense] and all else beside the prompts."""
    folder = write_backbone(parent / "pylate", backbone, markers)
    (dense,) = make_head(HEADS["one"])
    (folder / "1_Dense").mkdir()
    save_file(dense.state_dict(), folder / "1_Dense" / "model.safetensors")
    identity = "torch.nn.modules.linear.Identity"
    config = {"in_features": DIM, "out_features": 12, "bias": False, "activation_function": identity}
    write_json(folder / "1_Dense" / "config.json", config | {"use_residual": False})
    types = ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (kind, path) in enumerate(zip(types, ("", "1_Dense"), strict=True))
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 63, "do_lower_case": False})
    content: dict[str, object] = {
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 24,
        "document_length": 64,
        "attend_to_expansion_tokens": False,
        "skiplist_words": PUNCTUATION,
    } | ({"model_type": model_type} if model_type else {})
    content = {key: value for key, value in (content | settings).items() if value is not ...}
    write_json(folder / "config_sentence_transformers.json", content)
    return folder


def write_stanford(parent: Path, **metadata: object) -> Path:
    """Write Stanford's ColBERT: the head among the weights, and its settings in artifact.metadata."""
    folder = write_backbone(parent / "stanford", "bert")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]  # two words become the published markers
    for number, word in enumerate(("germany", "bridge")):
        vocab[f"[unused{number}]"] = vocab.pop(word)
    write_json(folder / "tokenizer.json", tokenizer)
    weights = {
        f"bert.{name}": tensor for name, tensor in AutoModel.from_pretrained(folder).state_dict().items()
    }
    (dense,) = make_head(HEADS["one"])
    weights["linear.weight"] = dense.linear.weight.detach()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"architectures": ["HF_ColBERT"]})
    settings = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 24}
    write_json(folder / "artifact.metadata", settings | metadata)
    return folder
