"""A tiny random checkpoint of each family, in its published layout and under its published parameter names.

Sources of layout and names: transformers' own classes where they exist; for Jina v2 the loaders of
text-embeddings-inference (its jina.rs) and the published config.json; for pplx-embed the model cards, and
ports of them that name `model_type`, `auto_map` and the 310 tensors of stock Qwen3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    JinaEmbeddingsV3Config,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
)

from tests.checkpoints import DIM, MAX_TOKENS, write_json, write_tokenizer
from tests.strategies import SENTENCES

QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# Attention far from uniform, so that a state depends visibly on its context and on every position.
WIDE = 0.2
BERT_SIZES = {
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": WIDE,
}
QWEN_SIZES = {
    **BERT_SIZES,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_theta": 1_000_000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "use_cache": False,
}


# ---------------------------------------------------------------- tokenizers


def write_wordpiece(folder: Path) -> int:
    return write_tokenizer(folder)


def write_byte_level(folder: Path) -> int:
    """Bytes, as MPNet's and RoBERTa's cousins have them; <s> and </s> around."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()


def write_sentencepiece(folder: Path, *, is_t5: bool = False) -> int:
    """Unigrams; XLM-R's <s> and </s> around, T5's </s> behind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        SENTENCES * 3,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=specials, unk_token="<unk>", show_progress=False
        ),
    )
    single = "$A </s>" if is_t5 else "<s> $A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single, None, [("<s>", 0), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()


def write_t5_pieces(folder: Path) -> int:
    return write_sentencepiece(folder, is_t5=True)


def write_qwen(folder: Path, *, adds_end: bool = False, separator: str = "<|endoftext|>") -> int:
    """Qwen's: bytes without special tokens; Qwen3-Embedding's adds <|endoftext|>, the others add nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=QWEN_SPECIALS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    # Known to the vocabulary and yet not special, as in the published tokenizer.
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>", "<|chunk_sep|>")])
    if adds_end:
        tokenizer.post_processor = processors.TemplateProcessing(
            "$A <|endoftext|>", None, [("<|endoftext|>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        sep_token=separator,
        model_max_length=131072,
    )
    fast.chat_template = QWEN_TEMPLATE
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size(with_added_tokens=True)


def write_qwen_with_end(folder: Path) -> int:
    return write_qwen(folder, adds_end=True)


# ---------------------------------------------------------------- models


def write_stock(folder: Path, config: PretrainedConfig, seed: int = 3) -> None:
    """Random weights, saved by transformers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5EncoderModel(config) if isinstance(config, T5Config) else AutoModel.from_config(config)
    model.save_pretrained(folder)


def write_pplx(folder: Path, vocab_size: int, *, model_class: str) -> None:
    """Stock Qwen3 weights under pplx-embed's config: another model type, and code on the hub."""
    write_stock(folder, Qwen3Config(vocab_size=vocab_size, **QWEN_SIZES))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {
        "model_type": "bidirectional_pplx_qwen3",
        "architectures": ["PPLXQwen3Model"],
        "auto_map": {"AutoConfig": "configuration.PPLXQwen3Config", "AutoModel": f"modeling.{model_class}"},
        "use_bidirectional_attention": True,
    }
    write_json(path, config)
    for name in ("configuration.py", "modeling.py", "st_quantize.py"):
        (folder / name).write_text("raise RuntimeError('remote code was run')\n")


def write_jina_v2(folder: Path, vocab_size: int, *, heads: int = 4, prefix: str = "") -> None:
    """Weights by their published names, without any class of ours."""
    layers, hidden = 2, 64
    shapes = {
        "embeddings.word_embeddings.weight": (vocab_size, DIM),
        "embeddings.token_type_embeddings.weight": (2, DIM),
        "embeddings.LayerNorm.weight": (DIM,),
        "embeddings.LayerNorm.bias": (DIM,),
        "pooler.dense.weight": (DIM, DIM),
        "pooler.dense.bias": (DIM,),
    }
    for number in range(layers):
        layer = f"encoder.layer.{number}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{layer}attention.{part}.weight"] = (DIM, DIM)
            shapes[f"{layer}attention.{part}.bias"] = (DIM,)
        for norm in ("attention.output.LayerNorm", "mlp.layernorm"):
            shapes[f"{layer}{norm}.weight"] = (DIM,)
            shapes[f"{layer}{norm}.bias"] = (DIM,)
        shapes[f"{layer}mlp.gated_layers.weight"] = (2 * hidden, DIM)
        shapes[f"{layer}mlp.wo.weight"] = (DIM, hidden)
        shapes[f"{layer}mlp.wo.bias"] = (DIM,)
    generator = torch.Generator().manual_seed(11)
    weights = {
        prefix + name: torch.randn(shape, generator=generator) * WIDE + (1.0 if "orm.weight" in name else 0.0)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    remote = "jinaai/jina-bert-implementation--"
    write_json(
        folder / "config.json",
        {
            "_name_or_path": "jinaai/jina-bert-implementation",
            "architectures": ["JinaBertForMaskedLM" if prefix else "JinaBertModel"],
            "auto_map": {
                "AutoConfig": remote + "configuration_bert.JinaBertConfig",
                "AutoModel": remote + "modeling_bert.JinaBertModel",
            },
            "attention_probs_dropout_prob": 0.0,
            "emb_pooler": "mean",
            "feed_forward_type": "geglu",
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": DIM,
            "intermediate_size": hidden,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 8192,
            "model_max_length": 8192,
            "model_type": "bert",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "pad_token_id": 0,
            "position_embedding_type": "alibi",
            "type_vocab_size": 2,
            "vocab_size": vocab_size,
        },
    )


# ---------------------------------------------------------------- layout


def write_layout(
    folder: Path,
    *,
    pooling: str,
    normalises: bool = True,
    old_form: bool = True,
    prompts: Mapping[str, str] | None = None,
    more: tuple[tuple[str, str], ...] = (),
) -> None:
    """Write modules.json and what it names, in the old form (a switch per pooling) or the new (a name)."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] * normalises)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    modules += [
        {"idx": len(modules), "name": str(len(modules)), "path": path, "type": kind} for kind, path in more
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    switches = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    declared = (
        {
            f"pooling_mode_{name}": name.startswith(pooling)
            for name in switches
            if name != "mean_sqrt_len_tokens"
        }
        if old_form
        else {"pooling_mode": pooling}
    )
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": DIM, **declared})
    if prompts is not None:
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})


# ---------------------------------------------------------------- families


def _bert(vocab_size: int) -> PretrainedConfig:
    return BertConfig(vocab_size=vocab_size, max_position_embeddings=MAX_TOKENS, **BERT_SIZES)


def _modernbert(vocab_size: int) -> PretrainedConfig:
    return ModernBertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=8192,
        local_attention=8,
        global_attn_every_n_layers=2,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        **BERT_SIZES,
    )


def _positions_behind_padding(kind: type[PretrainedConfig]) -> Callable[[int], PretrainedConfig]:
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return lambda vocab_size: kind(
        vocab_size=vocab_size, max_position_embeddings=MAX_TOKENS + 2, **ids, **BERT_SIZES
    )


def _t5(vocab_size: int) -> PretrainedConfig:
    return T5Config(
        vocab_size=vocab_size,
        d_model=DIM,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        pad_token_id=1,
        eos_token_id=2,
        initializer_factor=1.0,
    )


def _jina_v3(vocab_size: int) -> PretrainedConfig:
    return JinaEmbeddingsV3Config(
        vocab_size=vocab_size, max_position_embeddings=8194, pad_token_id=1, type_vocab_size=1, **BERT_SIZES
    )


def _qwen(vocab_size: int) -> PretrainedConfig:
    return Qwen3Config(vocab_size=vocab_size, **QWEN_SIZES)


STOCK: Mapping[str, tuple[str, Callable[[Path], int], Callable[[int], PretrainedConfig], str]] = {
    "minilm": ("all-MiniLM-tiny", write_wordpiece, _bert, "mean"),
    "mpnet": ("all-mpnet-tiny", write_byte_level, _positions_behind_padding(MPNetConfig), "mean"),
    "e5": ("e5-small-tiny", write_wordpiece, _bert, "mean"),
    "multilingual-e5": (
        "multilingual-e5-base-tiny",
        write_sentencepiece,
        _positions_behind_padding(XLMRobertaConfig),
        "mean",
    ),
    "gte": ("gte-small-tiny", write_wordpiece, _bert, "mean"),
    "gte-modernbert": ("gte-modernbert-tiny", write_wordpiece, _modernbert, "cls"),
    "modernbert-embed": ("modernbert-embed-tiny", write_wordpiece, _modernbert, "mean"),
    "jina-v1": ("jina-embedding-s-tiny", write_t5_pieces, _t5, "mean"),
    "jina-v3": ("jina-embeddings-v3-tiny", write_sentencepiece, _jina_v3, "mean"),
    "e2rank": ("E2Rank-tiny", write_qwen, _qwen, ""),
    "qwen3-embedding": ("Qwen3-Embedding-tiny", write_qwen_with_end, _qwen, "lasttoken"),
}
"""Folder, tokenizer, config and declared pooling of the families that transformers has classes for."""

WRITTEN_OUT = ("pplx-embed-v1", "pplx-embed-context-v1", "jina-v2")
"""Families whose forward pass tests/explicit_forward.py writes out."""


def write_family(parent: Path, family: str) -> Path:
    """Write the tiny checkpoint of a family into a folder with a name like its own."""
    if family in STOCK:
        name, write_tokens, make_config, pooling = STOCK[family]
        folder = parent / name
        folder.mkdir(parents=True)
        config = make_config(write_tokens(folder))
        write_stock(folder, config)
        if pooling:
            write_layout(folder, pooling=pooling, old_form=family != "gte")
        return folder
    folder = parent / {"jina-v2": "jina-embeddings-v2-tiny"}.get(family, family + "-tiny")
    folder.mkdir(parents=True)
    if family == "jina-v2":
        write_jina_v2(folder, write_wordpiece(folder))
        write_layout(folder, pooling="mean", normalises=False)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        write_json(folder / "tokenizer_config.json", settings | {"model_max_length": 2147483648})
    elif family == "pplx-embed-context-v1":
        write_pplx(folder, write_qwen(folder), model_class="PPLXQwen3ContextualModel")
    else:
        write_pplx(folder, write_qwen(folder), model_class="PPLXQwen3Model")
        more = (("st_quantize.FlexibleQuantizer", ""),)
        write_layout(folder, pooling="mean", normalises=False, more=more)
    return folder
