"""The encoder against stock forward passes, one text at a time."""

from __future__ import annotations

import dataclasses
import math
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    CamembertConfig,
    DistilBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from rag_embed import ContextualEmbedding
from rag_embed.devices import Dtype, has_fast_bfloat16, pick_dtype
from rag_embed.encoder import Encoder
from rag_embed.errors import ContextOverflowError, NonFiniteError
from rag_embed.loading import load_encoder
from rag_embed.spans import CharSpan, align_tokens
from tests import reference
from tests.checkpoints import DIM, MAX_TOKENS
from tests.conftest import Loaded
from tests.precisions import PRECISIONS, TOLERANCE
from tests.strategies import SENTENCES, chunked_documents

CPU = torch.device("cpu")
TEXTS = [
    "Berlin is the capital of Germany.",
    "a",
    "Its river is the Spree, and the city has many bridges. " * 2,
    "東京都は日本の首都。",
    "Its river is the Spree.",
    "",
    "Berlin is the capital of Germany.",
    "naïve café 3.14",
]

# ---------------------------------------------------------------- checkpoints of other families


def byte_level_tokenizer() -> Tokenizer:
    """Make a tokenizer as RoBERTa has: bytes, and the blank before a word is part of its token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return tokenizer


def sentencepiece_tokenizer() -> Tokenizer:
    """Make a tokenizer as XLM-R has: unigrams, and blanks are a character of the vocabulary."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    return tokenizer


def write_checkpoint(folder: Path, config: PretrainedConfig, tokenizer: Tokenizer) -> Path:
    config.vocab_size = tokenizer.get_vocab_size()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        AutoModel.from_config(config).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return folder


SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_size": DIM,
    "max_position_embeddings": MAX_TOKENS + 2,
    "initializer_range": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
FAMILIES = {
    "roberta": (RobertaConfig(**SIZES, type_vocab_size=1), byte_level_tokenizer),
    "xlm-roberta": (XLMRobertaConfig(**SIZES, type_vocab_size=1), sentencepiece_tokenizer),
    "camembert": (CamembertConfig(**SIZES, type_vocab_size=1), sentencepiece_tokenizer),
    "mpnet": (MPNetConfig(**SIZES), byte_level_tokenizer),
    "distilbert": (
        DistilBertConfig(
            dim=DIM, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=MAX_TOKENS, pad_token_id=1
        ),
        byte_level_tokenizer,
    ),
}
PACKED_FAMILIES = {"roberta", "xlm-roberta", "camembert"}


@pytest.fixture(scope="module", params=FAMILIES)
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, make_tokenizer = FAMILIES[request.param]
    return write_checkpoint(tmp_path_factory.mktemp("family") / request.param, config, make_tokenizer())


def ids_of(encoder: Encoder, texts: Sequence[str]) -> list[np.ndarray]:
    return [tokens.ids for tokens in encoder.tokenize_all(texts)]


def largest_difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest difference of two numbers, as a share of the largest number of its text (2 to 9 here)."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def stock_states(folder: Path, encoder: Encoder, sequences: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Last states of each text out of the stock model: eager, its own position ids, batch size 1."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    states = []
    with torch.no_grad():
        for ids in sequences:
            full = torch.tensor([[*encoder.prefix_ids, *ids.tolist(), *encoder.suffix_ids]])
            states.append(model(input_ids=full).last_hidden_state[0])
    return states


def test_every_family_equals_its_stock_forward(family_folder: Path) -> None:
    encoder = load_encoder(family_folder, device="cpu", dtype="float32")
    assert encoder.profile.is_packable == (family_folder.name in PACKED_FAMILIES)
    assert (encoder.dim, encoder.max_tokens) == (DIM, MAX_TOKENS)
    assert (encoder.prefix_ids, encoder.suffix_ids) == ([0], [2])
    longest = "Its river is the Spree, and the city has many bridges. " * 20
    ids = [tokens[: encoder.capacity] for tokens in ids_of(encoder, [*TEXTS, longest])]
    assert len(ids[-1]) == MAX_TOKENS - 2
    found = list(encoder.encode(ids))
    assert largest_difference(found, stock_states(family_folder, encoder, ids)) < 1e-6


def test_every_packable_architecture_is_tested_here() -> None:
    from rag_embed.profiles.profile import PACKABLE_ARCHITECTURES

    elsewhere = {"bert", "qwen3", "bidirectional_pplx_qwen3", "jina_embeddings_v3"}  # tests/test_families.py
    assert set(PACKABLE_ARCHITECTURES) == PACKED_FAMILIES | elsewhere


@given(document=chunked_documents())
@settings(max_examples=40, deadline=None)
def test_tokens_of_other_tokenizers_equal_the_reference(
    other_tokenizers: list[tuple[Encoder, PreTrainedTokenizerFast]],
    document: tuple[str, list[tuple[int, int]]],
) -> None:
    text, chunks = document
    for encoder, tokenizer in other_tokenizers:
        tokens = encoder.tokenize(text)
        ids, offsets = reference.tokenize(tokenizer, text)
        assert tokens.ids.tolist() == ids
        found = align_tokens(text, tokens.starts, tokens.ends, [CharSpan(*chunk) for chunk in chunks])
        assert [(span.start, span.end) for span in found] == reference.token_spans(offsets, text, chunks)


@pytest.fixture(scope="module")
def other_tokenizers(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[Encoder, PreTrainedTokenizerFast]]:
    result = []
    for name in ("roberta", "xlm-roberta"):
        config, make_tokenizer = FAMILIES[name]
        folder = write_checkpoint(tmp_path_factory.mktemp("tokenizers") / name, config, make_tokenizer())
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        result.append((load_encoder(folder, device="cpu", dtype="float32"), tokenizer))
    return result


# ---------------------------------------------------------------- tokens


def test_tokens_are_those_of_the_stock_tokenizer(minilm: Encoder, minilm_reference: Loaded) -> None:
    text = "Don't re-enter İstanbul\r\n東京 👨‍👩‍👧‍👦 at 3.14 p.m.! " * 40
    ids, offsets = reference.tokenize(minilm_reference[1], text)
    tokens = minilm.tokenize(text)
    assert len(tokens) == len(ids) > 512
    assert tokens.ids.tolist() == ids
    assert list(zip(tokens.starts.tolist(), tokens.ends.tolist(), strict=True)) == offsets


@pytest.mark.parametrize("special", ["[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]"])
def test_special_tokens_in_a_text_are_ordinary_characters(minilm: Encoder, special: str) -> None:
    tokens = minilm.tokenize(f"One {special} two")
    assert not {0, 100, 101, 102, 103} & set(tokens.ids.tolist())
    assert len(tokens) >= 5
    assert minilm.tokenize(special).starts.tolist()[0] == 0
    assert minilm.tokenize(special).ends.tolist()[-1] == len(special)
    plain = minilm.tokenize(f"One [ {special[1:-1]} ] two")
    assert tokens.ids.tolist() == plain.ids.tolist()


def test_a_text_without_tokens(tiny_encoder: Encoder) -> None:
    for text in ("", " \n", "\u200b"):
        assert len(tiny_encoder.tokenize(text)) == 0
    assert tiny_encoder.tokenize_all([]) == []


# ---------------------------------------------------------------- states


def test_a_packed_batch_equals_single_forwards(tiny_encoder: Encoder, tiny_folder: Path) -> None:
    ids = ids_of(tiny_encoder, TEXTS)
    found = list(tiny_encoder.encode(ids))
    assert largest_difference(found, stock_states(tiny_folder, tiny_encoder, ids)) < 1e-6


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_packed_batch_of_minilm_equals_single_forwards(minilm: Encoder, precision: Dtype) -> None:
    """Against stock forwards in float32."""
    ids = ids_of(minilm, [*TEXTS, "The river is long and the bridge is short. " * 30])
    encoder = load_encoder(device="cpu", dtype=precision)
    found = [states.float() for states in encoder.encode(ids)]
    expected = stock_states(minilm.profile.folder, minilm, ids)
    assert largest_difference(found, expected) < TOLERANCE[precision]


@given(st.lists(st.integers(0, MAX_TOKENS - 2), min_size=1, max_size=12), st.integers(1, 300), st.randoms())
@settings(max_examples=40, deadline=None)
def test_company_in_a_batch_changes_nothing(
    tiny_encoder: Encoder, lengths: list[int], batch_tokens: int, random: object
) -> None:
    rng = np.random.default_rng(sum(lengths))
    sequences = [rng.integers(5, 100, length) for length in lengths]
    alone = [next(tiny_encoder.encode([ids])) for ids in sequences]
    order = list(range(len(sequences)))
    random.shuffle(order)
    with resized(tiny_encoder, batch_tokens) as encoder:
        together = dict(zip(order, encoder.encode([sequences[i] for i in order]), strict=True))
    assert largest_difference(alone, [together[i] for i in range(len(sequences))]) < 1e-6


class resized:  # noqa: N801
    """An encoder with another batch size for a while."""

    def __init__(self, encoder: Encoder, batch_tokens: int) -> None:
        self.encoder, self.batch_tokens = encoder, batch_tokens

    def __enter__(self) -> Encoder:
        self.before, self.encoder.batch_tokens = self.encoder.batch_tokens, self.batch_tokens
        return self.encoder

    def __exit__(self, *_: object) -> None:
        self.encoder.batch_tokens = self.before


def test_by_length_equals_packed(tiny_encoder: Encoder) -> None:
    profile = dataclasses.replace(tiny_encoder.profile, is_packable=False)
    by_length = Encoder(profile, device=CPU, dtype=torch.float32)
    ids = ids_of(tiny_encoder, TEXTS)
    assert largest_difference(list(by_length.encode(ids)), list(tiny_encoder.encode(ids))) < 1e-6
    # Eight texts, two pairs of one length.
    assert by_length.forward_count == len({len(tokens) for tokens in ids}) < len(TEXTS)
    assert by_length.token_count == sum(len(tokens) + 2 for tokens in ids)


def test_the_same_call_gives_the_same_bits(tiny_encoder: Encoder) -> None:
    ids = ids_of(tiny_encoder, TEXTS)
    for first, second in zip(tiny_encoder.encode(ids), tiny_encoder.encode(ids), strict=True):
        assert torch.equal(first, second)


def test_states_in_bfloat16_are_close(tiny_folder: Path, tiny_encoder: Encoder) -> None:
    half = load_encoder(tiny_folder, device="cpu", dtype="bfloat16")
    ids = ids_of(tiny_encoder, TEXTS)
    states = list(half.encode(ids))
    assert {state.dtype for state in states} == {torch.bfloat16}
    assert largest_difference([state.float() for state in states], list(tiny_encoder.encode(ids))) < 0.2


def test_threads_share_an_encoder(tiny_encoder: Encoder) -> None:
    ids = ids_of(tiny_encoder, TEXTS)
    expected = list(tiny_encoder.encode(ids))
    before = tiny_encoder.forward_count
    results: list[list[torch.Tensor]] = []
    threads = [
        threading.Thread(target=lambda: results.append(list(tiny_encoder.encode(ids)))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tiny_encoder.forward_count == before + 6
    for states in results:
        assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


# ---------------------------------------------------------------- what is computed


def test_no_padded_position_is_computed(tiny_encoder: Encoder) -> None:
    ids = ids_of(tiny_encoder, TEXTS)
    tokens, passes = tiny_encoder.token_count, tiny_encoder.forward_count
    states = list(tiny_encoder.encode(ids))
    assert [len(state) for state in states] == [len(tokens) + 2 for tokens in ids]
    assert tiny_encoder.token_count - tokens == sum(len(state) for state in states)
    assert tiny_encoder.forward_count - passes == 1


def test_the_model_is_given_no_more_than_counted(tiny_encoder: Encoder) -> None:
    """Count at the model itself what goes in."""
    seen: list[torch.Size] = []
    hook = tiny_encoder._model.embeddings.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    tokens, passes = tiny_encoder.token_count, tiny_encoder.forward_count
    with resized(tiny_encoder, 70) as encoder:
        list(encoder.encode(ids_of(encoder, TEXTS)))
    hook.remove()
    assert sum(shape[0] * shape[1] for shape in seen) == tiny_encoder.token_count - tokens
    assert len(seen) == tiny_encoder.forward_count - passes > 1


def test_a_batch_keeps_to_its_budget(tiny_encoder: Encoder) -> None:
    passes = tiny_encoder.forward_count
    with resized(tiny_encoder, 100) as encoder:
        list(encoder.encode([np.full(18, 7)] * 23))
    assert tiny_encoder.forward_count - passes == 5  # five texts of 20 a pass
    with resized(tiny_encoder, 1) as encoder:
        assert len(list(encoder.encode([np.full(18, 7)] * 3))) == 3
    assert tiny_encoder.forward_count - passes == 5 + 3


def test_sequences_are_read_as_they_are_needed(tiny_encoder: Encoder) -> None:
    read = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal read
        while True:
            read += 1
            yield np.full(18, 7)

    with resized(tiny_encoder, 100) as encoder:
        states = encoder.encode(endless())
        assert read == 0
        next(states)
        # One batch of five, and the one that did not fit into it.
        assert read == 6
        for _ in range(5):
            next(states)
        assert read == 11
        states.close()


# ---------------------------------------------------------------- refusals


def test_too_many_tokens_are_refused_before_anything_is_computed(tiny_encoder: Encoder) -> None:
    passes = tiny_encoder.forward_count
    message = (
        rf"63 tokens in one sequence; {tiny_encoder.profile.name} reads at most 62 at once. Split the text"
    )
    with pytest.raises(ContextOverflowError, match=message):
        list(tiny_encoder.encode([np.full(62, 7), np.full(63, 7)]))
    assert tiny_encoder.forward_count == passes
    assert len(next(tiny_encoder.encode([np.full(62, 7)]))) == MAX_TOKENS


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("is_packable", [True, False])
def test_states_that_are_not_finite_are_refused(
    tiny_folder: Path, tmp_path: Path, bad: float, is_packable: bool
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][3] = bad
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    profile = dataclasses.replace(encoder.profile, is_packable=is_packable)
    encoder = Encoder(profile, device=CPU, dtype=torch.float32)
    message = r"broken in torch.float32 on cpu returned NaN or infinite token states; expected finite numbers"
    with pytest.raises(NonFiniteError, match=message):
        list(encoder.encode(ids_of(encoder, TEXTS)))


def test_large_finite_states_in_float16_are_no_overflow(tiny_folder: Path, tmp_path: Path) -> None:
    """Their sum is beyond float16, they themselves are not."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "large"))
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"] += 500
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load_encoder(folder, device="cpu", dtype="float16")
    (state,) = encoder.encode([np.full(60, 7)])
    assert state.float().sum() > 65504


# ---------------------------------------------------------------- loading


def test_one_encoder_is_shared(tiny_folder: Path, tiny_encoder: Encoder) -> None:
    assert load_encoder(tiny_folder, device="cpu", dtype="float32") is tiny_encoder
    assert load_encoder(str(tiny_folder), device="cpu", dtype="float32") is tiny_encoder
    assert load_encoder(tiny_folder, device="cpu", dtype="float32", batch_tokens=64) is not tiny_encoder
    assert load_encoder(tiny_folder, device="cpu") is tiny_encoder


def test_another_batch_size_does_not_load_the_weights_again(tiny_folder: Path, tiny_encoder: Encoder) -> None:
    smaller = load_encoder(tiny_folder, device="cpu", batch_tokens=64, insist=["late"])
    assert smaller.batch_tokens == 64 and tiny_encoder.batch_tokens == 1024
    assert smaller._model is tiny_encoder._model
    before = tiny_encoder.forward_count
    assert next(smaller.encode([np.array([7])])).shape == (3, DIM)
    assert tiny_encoder.forward_count == before
    model = ContextualEmbedding(model=str(tiny_folder), device="cpu")
    assert model.encoder is tiny_encoder


def test_weights_that_were_replaced_on_disk_are_loaded_anew(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "trained"))
    first = load_encoder(folder, device="cpu")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "embeddings.word_embeddings.weight": weights["embeddings.word_embeddings.weight"] + 1},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert load_encoder(folder, device="cpu") is not first


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_company_in_a_pass_of_fixed_length_changes_no_bit(
    minilm: Encoder, precision: Dtype, threads: int
) -> None:
    encoder = load_encoder(device="cpu", dtype=precision)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1000, 30000, size) for size in (5, 5, 17, 60, 1, 33, 5, 62, 0, 17, 41)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = [next(encoder.encode([ids], pass_tokens=256)) for ids in sequences]
        for _ in range(4):
            order = rng.permutation(len(sequences))
            together = encoder.encode([sequences[index] for index in order], pass_tokens=256)
            for index, states in zip(order, together, strict=True):
                assert torch.equal(states, alone[index])
    finally:
        torch.set_num_threads(before)
    assert (
        largest_difference([s.float() for s in alone], list(minilm.encode(sequences))) < TOLERANCE[precision]
    )


def test_threads_that_load_at_once_share_one(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "raced"))
    loaded: list[Encoder] = []
    threads = [
        threading.Thread(target=lambda: loaded.append(load_encoder(folder, device="cpu"))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 5
    assert len(set(map(id, loaded))) == 1


def test_automatic_precision_is_float32_on_every_processor(tiny_folder: Path) -> None:
    """The same index comes out of every machine; bfloat16 is chosen by name."""
    assert pick_dtype(CPU) == torch.float32
    assert pick_dtype(torch.device("meta")) == torch.float32
    assert load_encoder(tiny_folder, device="cpu").dtype == torch.float32


def test_the_log_says_in_which_precision_it_computes(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "logged"))
    with caplog.at_level("INFO", logger="rag_embed"):
        load_encoder(folder, device="cpu")
        load_encoder(folder, device="cpu", dtype="bfloat16")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("logged computes in float32 on cpu")
    assert ("dtype='bfloat16' would be about twice as fast" in first) is has_fast_bfloat16()
    assert second == "logged computes in bfloat16 on cpu"


def test_loading_leaves_the_logging_of_transformers_alone(tiny_folder: Path, tmp_path: Path) -> None:
    from transformers.utils import logging

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "quiet"))
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_encoder(folder, device="cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_loading_prints_nothing(tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_encoder(Path(shutil.copytree(tiny_folder, tmp_path / "silent")), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_the_model_is_in_evaluation_mode(tiny_encoder: Encoder, tiny_folder: Path) -> None:
    assert not tiny_encoder._model.training
    assert AutoConfig.from_pretrained(tiny_folder).hidden_dropout_prob > 0
