"""Checkpoint folders for tests: tiny, random, seeded, in the layout of sentence-transformers."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

DIM = 32
MAX_TOKENS = 64

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = (
    "an ar as at be ca ce co con de di ed en er es ex fi for ge he hi in ing ion is it ka ko la le li lo ly "
    "ma me men mi ment na ne ni no of on or ou pa per po pre pro ra re ri ro sa se si so st ta te ter th the "
    "ti to tion un ur us ve vi was wa wi"
)
WORDS = "and are berlin bridge capital city germany has its people river that this with"
CJK = "東京都日本中国人大学生語文書海山水的是不在有我北上下一二三あいうえおかきくアイウ"
EMOJI = "😀😂👍🎉🚀❤👨👩👧👦🏽🏳🌈🇩🇪"


def vocabulary() -> dict[str, int]:
    """Make a WordPiece vocabulary: most words take several tokens, and rare characters are unknown."""
    alphabet = [*string.ascii_lowercase, *string.digits, *CJK, *EMOJI]
    pieces = [*alphabet, *SYLLABLES.split()]
    tokens = [
        *SPECIALS,
        *string.punctuation,
        *"。、！？「」…—",
        *pieces,
        *("##" + piece for piece in pieces),
        *WORDS.split(),
    ]
    unique = dict.fromkeys(tokens)
    return {token: token_id for token_id, token in enumerate(unique)}


def write_tokenizer(folder: Path) -> int:
    """Write an uncased BERT tokenizer that adds [CLS] and [SEP]; return the number of its tokens."""
    vocab = vocabulary()
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_TOKENS,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    write_json(folder / "tokenizer_config.json", settings)
    return len(vocab)


def write_model(folder: Path, vocab_size: int, seed: int) -> None:
    """Write the weights and config of a random BERT; the same seed gives the same weights."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=MAX_TOKENS,
        # Ten times the usual: attention is then far from uniform, and a state depends visibly on its context.
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    model.save_pretrained(folder)


def write_modules(folder: Path) -> None:
    """Write the files by which sentence-transformers finds the model and its mean pooling."""
    module = "sentence_transformers.models."
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": module + "Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": module + "Pooling"},
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    pooling = {
        "word_embedding_dimension": DIM,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", pooling)


def write_json(path: Path, content: object) -> None:
    """Write an object as indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tiny_bert(tmp_dir: Path, seed: int = 0) -> Path:
    """Write a tiny BERT checkpoint: 2 layers, 32 dimensions, 64 positions, mean pooling, uncased WordPiece.

    Args:
        tmp_dir: Folder to write into; made if it is not there.
        seed: Seed of the random weights.

    Returns:
        The same folder.
    """
    tmp_dir.mkdir(parents=True, exist_ok=True)
    vocab_size = write_tokenizer(tmp_dir)
    write_model(tmp_dir, vocab_size, seed)
    write_modules(tmp_dir)
    return tmp_dir
