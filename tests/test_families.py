"""Each family's tiny checkpoint against an independent forward: transformers' class, or one written out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5EncoderModel

from rag_embed import jina_bert
from rag_embed.encoder import Encoder
from rag_embed.errors import UnsupportedModelError
from rag_embed.jina_bert import alibi_slopes
from rag_embed.late_chunking import WindowOptions, embed_isolated, embed_late
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.loading import load_encoder
from rag_embed.profiles import FAMILIES, locate_checkpoint
from rag_embed.spans import CharSpan
from tests import explicit_forward, reference
from tests.checkpoints import DIM, MAX_TOKENS, write_json
from tests.checkpoints_families import (
    STOCK,
    WRITTEN_OUT,
    write_byte_level,
    write_family,
    write_jina_v2,
    write_layout,
    write_wordpiece,
)
from tests.explicit_forward import Forward

TEXTS = [
    "Berlin is the capital of Germany.",
    "a",
    "Its river is the Spree, and the city has many bridges. " * 2,
    "naïve café 3.14 東京",
    "Its river is the Spree.",
]
DOCUMENT = "Berlin is the capital of Germany. Its river is the Spree. It has many bridges. " * 4
WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

# What their cards say, apart from the data of the implementation: query prefix, document prefix, pooling, and
# the longest context.
CARDS = {
    "minilm": ("", "", "mean", 512),
    "mpnet": ("", "", "mean", 512),
    "e5": ("query: ", "passage: ", "mean", 512),
    "multilingual-e5": ("query: ", "passage: ", "mean", 512),
    "gte": ("", "", "mean", 512),
    "gte-modernbert": ("", "", "cls", 8192),
    "modernbert-embed": ("search_query: ", "search_document: ", "mean", 8192),
    "pplx-embed-v1": ("", "", "mean", 32768),
    "pplx-embed-context-v1": ("", "", "mean", 32768),
    "jina-v1": ("", "", "mean", 512),
    "jina-v2": ("", "", "mean", 8192),
    "jina-v3": ("", "", "mean", 8192),
    "e2rank": (WEB_SEARCH, "", "last-token", 32768),
    "qwen3-embedding": (WEB_SEARCH, "", "last-token", 32768),
}
CAUSAL = {"e2rank", "qwen3-embedding"}
LATE = set(CARDS) - CAUSAL - {"gte-modernbert", "pplx-embed-context-v1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("families")
    return {family: write_family(parent / family, family) for family in CARDS}


def independent_forward(folder: Path, family: str) -> Forward:
    if family in WRITTEN_OUT:
        written_out = explicit_forward.jina_forward if family == "jina-v2" else explicit_forward.qwen_forward
        return written_out(folder)
    kind = T5EncoderModel if family == "jina-v1" else AutoModel
    model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    return lambda ids: reference.run_alone(model, ids)


def tokenize_whole(folder: Path, family: str, text: str) -> list[int]:
    """Ids as the stock tokenizer gives them; E2Rank's card adds its end token as text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return list(tokenizer(text + "<|endoftext|>" * (family == "e2rank"), verbose=False)["input_ids"])


def pool(states: Sequence[Sequence[float]], pooling: str) -> list[float]:
    if pooling == "mean":
        return reference.unit(reference.mean(states))
    return reference.unit(states[0 if pooling == "cls" else -1])


def load(folder: Path, **options: object) -> Encoder:
    return load_encoder(folder, device="cpu", dtype="float32", **options)


def load_anew(folder: Path) -> Encoder:
    """Load a folder that was loaded before and has changed since."""
    return Encoder(locate_checkpoint(folder), device=torch.device("cpu"), dtype=torch.float32)


def largest_difference(found: object, expected: object) -> float:
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


# ---------------------------------------------------------------- equal to the independent forward


def test_every_family_has_a_checkpoint_here() -> None:
    untested = {"e5-instruct", "pplx-embed-v2-context"}  # prefixes of one, another architecture of the other
    assert {family.name for family in FAMILIES} == set(CARDS) | untested
    assert set(CARDS) == set(STOCK) | set(WRITTEN_OUT)


@pytest.mark.parametrize("family", CARDS)
def test_what_is_read_is_what_the_card_says(folders: dict[str, Path], family: str) -> None:
    profile = locate_checkpoint(folders[family])
    query_prefix, document_prefix, pooling, longest = CARDS[family]
    assert profile.family.name == family
    assert (profile.query_prefix, profile.document_prefix) == (query_prefix, document_prefix)
    assert (profile.pooling, profile.family.max_tokens, profile.dim) == (pooling, longest, DIM)
    assert profile.max_tokens <= longest
    assert profile.is_causal == (family in CAUSAL)
    assert profile.allows_late_chunking == (family in LATE)


@pytest.mark.parametrize("family", CARDS)
def test_states_equal_the_independent_forward(folders: dict[str, Path], family: str) -> None:
    encoder, forward = load(folders[family]), independent_forward(folders[family], family)
    room = MAX_TOKENS - len(encoder.prefix_ids) - len(encoder.suffix_ids)
    ids = [tokens.ids[:room] for tokens in encoder.tokenize_all([*TEXTS, DOCUMENT])]
    assert len(ids[-1]) == room
    for states, inner in zip(encoder.encode(ids), ids, strict=True):
        expected = torch.tensor(forward([*encoder.prefix_ids, *inner.tolist(), *encoder.suffix_ids]))
        assert largest_difference(states / expected.abs().max(), expected / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("family", CARDS)
def test_vectors_equal_the_independent_forward(folders: dict[str, Path], family: str) -> None:
    """From text to vector by the card: prefix, special tokens, pooling, length 1."""
    folder, forward = folders[family], independent_forward(folders[family], family)
    query_prefix, document_prefix, pooling, _ = CARDS[family]
    text = "Its river is the Spree."
    model = ContextualEmbedding(model=str(folder), device="cpu", dtype="float32", strategy="isolated")
    if family == "pplx-embed-context-v1":
        model = model.model_copy(update={"strategy": "native"})
    for prefix, found in (
        (document_prefix, model.get_text_embedding(text)),
        (query_prefix, model.get_query_embedding(text)),
    ):
        ids = tokenize_whole(folder, family, prefix + text)
        assert largest_difference(found, pool(forward(ids), pooling)) < 1e-5


@pytest.mark.parametrize("family", sorted(LATE))
def test_late_vectors_over_several_windows_equal_the_reference(folders: dict[str, Path], family: str) -> None:
    folder, window, overlap = folders[family], 40, 8
    encoder, forward = load(folder), independent_forward(folder, family)
    before, after = encoder.prefix_ids, encoder.suffix_ids
    starts = [i for i in range(len(DOCUMENT)) if i == 0 or DOCUMENT[i - 2 : i] == ". "]
    chunks = list(zip(starts, [*starts[1:], len(DOCUMENT)], strict=True))
    ids, offsets = reference.tokenize(AutoTokenizer.from_pretrained(folder), DOCUMENT)
    borders = reference.windows(len(ids), window - len(before) - len(after), overlap)
    assert len(borders) > 2
    states = []
    for start, end, own_start, own_end in borders:
        of_window = forward([*before, *ids[start:end], *after])
        states += [of_window[len(before) + token - start] for token in range(own_start, own_end)]
    expected = [
        reference.unit(reference.mean(states[start:end]))
        for start, end in reference.token_spans(offsets, DOCUMENT, chunks)
    ]
    options = WindowOptions(window_tokens=window, overlap_tokens=overlap)
    found = embed_late(encoder, DOCUMENT, [CharSpan(*chunk) for chunk in chunks], options=options)
    assert largest_difference(found, expected) < 1e-5


# ---------------------------------------------------------------- equal to sentence-transformers


@pytest.mark.parametrize("family", ["mpnet", "multilingual-e5", "gte-modernbert", "qwen3-embedding"])
def test_vectors_equal_sentence_transformers(tmp_path: Path, family: str) -> None:
    from sentence_transformers import SentenceTransformer

    folder = write_family(tmp_path, family)
    prompts = {"query": CARDS[family][0], "document": CARDS[family][1]}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    expected = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model = ContextualEmbedding(model=str(folder), device="cpu", dtype="float32", strategy="isolated")
    # Theirs are cut at the model's limit, ours are read in windows.
    limit = model.profile.max_tokens
    texts = [text for text in TEXTS if len(tokenize_whole(folder, family, prompts["query"] + text)) <= limit]
    assert len(texts) >= 4
    found = model.get_text_embedding_batch(texts)
    options = {"show_progress_bar": False, "convert_to_tensor": True}
    assert largest_difference(found, expected.encode_document(texts, **options)) < 1e-5
    for text in texts:
        query = expected.encode_query(text, **options)
        assert largest_difference(model.get_query_embedding(text), query) < 1e-5


def test_lower_case_is_as_in_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = write_family(tmp_path, "mpnet")
    write_byte_level(folder)
    texts = ["Berlin IS the Capital", "ÀÉÎ İstanbul", "berlin is the capital"]
    cased = embed_isolated(load(folder), texts)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": True})
    before = locate_checkpoint(folder).digest
    lowered = load_anew(folder)
    expected = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors = expected.encode(texts, show_progress_bar=False, convert_to_tensor=True)
    found = embed_isolated(lowered, texts)
    assert largest_difference(found, vectors) < 1e-5
    assert largest_difference(cased, vectors) > 1e-2
    assert torch.equal(found[0], found[0]) and largest_difference(found[0], found[2]) < 1e-6
    tokens = lowered.tokenize("İX")
    assert tokens.ends[-1] == 2  # offsets count in the text as it was given
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS})
    assert locate_checkpoint(folder).digest != before


# ---------------------------------------------------------------- Jina v2


def test_slopes_of_head_counts_that_are_no_power_of_two() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    twelve = [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    assert largest_difference(alibi_slopes(12), twelve) < 1e-7
    for heads in (1, 2, 3, 6, 7, 16, 20):
        expected = [explicit_forward.alibi_slope(head, heads) for head in range(heads)]
        assert largest_difference(alibi_slopes(heads), expected) < 1e-7


def test_jina_weights_of_the_masked_language_model_load_too(tmp_path: Path) -> None:
    """The hub's small model was saved with its head: every name begins with "bert."."""
    folder = write_family(tmp_path, "jina-v2")
    write_jina_v2(folder, write_wordpiece(folder), heads=8, prefix="bert.")
    encoder, forward = load(folder), explicit_forward.jina_forward(folder, "bert.")
    ids = encoder.tokenize(TEXTS[2]).ids
    expected = torch.tensor(forward([*encoder.prefix_ids, *ids.tolist(), *encoder.suffix_ids]))
    assert largest_difference(next(encoder.encode([ids])), expected) < 1e-5


def test_jina_attends_in_blocks_as_at_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folders["jina-v2"])
    ids = encoder.tokenize(DOCUMENT).ids
    assert 80 < len(ids) < 512
    at_once = next(encoder.encode([ids]))
    monkeypatch.setattr(jina_bert, "_QUERY_BLOCK", 7)
    assert largest_difference(next(encoder.encode([ids])), at_once) < 1e-5


def test_jina_reads_far_beyond_bert(folders: dict[str, Path]) -> None:
    """Its tokenizer claims no limit; the limit is what it was trained for."""
    encoder = load(folders["jina-v2"])
    assert encoder.max_tokens == 8192
    states = next(encoder.encode([torch.randint(5, 100, (2000,)).numpy()]))
    assert states.shape == (2002, DIM) and bool(states.isfinite().all())


def test_another_feed_forward_than_geglu_is_refused(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "jina-v2")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"feed_forward_type": "reglu"})
    with pytest.raises(UnsupportedModelError, match="feed_forward_type 'reglu'; expected 'geglu'"):
        load(folder)


# ---------------------------------------------------------------- known by architecture or name, or refused


def test_remote_code_is_not_run_and_what_was_refused_is_named(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "pplx-embed-v1")
    assert load(folder).dim == DIM  # its modeling.py would have raised
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"model_type": "pplx_contextual_qwen3_5"})
    (folder / "modules.json").unlink()
    message = r"its own code \(configuration\.PPLXQwen3Config, modeling\.PPLXQwen3Model\) was refused"
    with pytest.raises(UnsupportedModelError, match=message):
        load_anew(folder)


def test_weights_of_remote_code_under_a_native_name_are_refused(tmp_path: Path) -> None:
    """Jina v3's first upload calls itself XLM-R; its tensors are others."""
    folder = write_family(tmp_path, "multilingual-e5")
    other = write_family(tmp_path, "jina-v3")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    config = json.loads((folder / "config.json").read_text())
    named = {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"}
    write_json(folder / "config.json", config | {"auto_map": named})
    with pytest.raises(
        UnsupportedModelError, match=r"could not be loaded(?s:.*)XLMRobertaLoRA\) was refused"
    ):
        load(folder)


@pytest.mark.parametrize("named_by", ["folder", "config"])
def test_prompts_of_a_family_stand_in_for_undeclared_ones(tmp_path: Path, named_by: str) -> None:
    folder = write_family(tmp_path, "e5")
    if named_by == "config":
        folder = folder.rename(tmp_path / "snapshot")
        assert locate_checkpoint(folder).query_prefix == ""
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"_name_or_path": "intfloat/e5-small-v2"})
    for prompts in (None, {}, {"query": "", "document": ""}):  # the last is written by sentence-transformers
        if prompts is not None:
            write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
        profile = locate_checkpoint(folder)
        assert (profile.query_prefix, profile.document_prefix) == ("query: ", "passage: ")
    prompts = {"query": "ask: ", "document": "tell: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    profile = locate_checkpoint(folder)
    assert (profile.query_prefix, profile.document_prefix) == ("ask: ", "tell: ")


@pytest.mark.parametrize(
    ("name", "family", "query_prefix"),
    [
        ("intfloat/multilingual-e5-small", "multilingual-e5", "query: "),
        ("intfloat/multilingual-e5-large-instruct", "e5-instruct", WEB_SEARCH + " "),
        ("intfloat/e5-mistral-7b-instruct", "sentence-transformers", ""),
    ],
)
def test_names_that_are_nearly_the_same(tmp_path: Path, name: str, family: str, query_prefix: str) -> None:
    folder = write_family(tmp_path, "multilingual-e5").rename(tmp_path / name.split("/")[1])
    profile = locate_checkpoint(folder)
    assert (profile.family.name, profile.query_prefix) == (family, query_prefix)


def test_a_decoder_without_declared_pooling_is_refused(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "qwen3-embedding").rename(tmp_path / "some-decoder")
    assert (locate_checkpoint(folder).pooling, locate_checkpoint(folder).is_causal) == ("last-token", True)
    (folder / "modules.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"is a decoder of no family known here.*modules\.json"):
        locate_checkpoint(folder)


def test_a_causal_architecture_that_is_not_listed_is_found_out(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "minilm")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"is_decoder": True})
    with pytest.raises(
        UnsupportedModelError, match="attends to earlier tokens only, which is not known here"
    ):
        load(folder)


def test_a_model_compared_by_dot_product_of_lengths_is_refused(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "mpnet")
    write_layout(folder, pooling="cls", normalises=False)
    path = folder / "config_sentence_transformers.json"
    write_json(path, {"similarity_fn_name": "dot"})
    with pytest.raises(
        UnsupportedModelError, match="compared by dot without being normalised; expected cosine"
    ):
        locate_checkpoint(folder)
    write_layout(folder, pooling="cls")
    assert locate_checkpoint(folder).pooling == "cls"
    write_json(path, {"similarity_fn_name": "euclidean"})
    with pytest.raises(UnsupportedModelError, match="compared by euclidean"):
        locate_checkpoint(folder)


def test_an_instruction_model_that_skips_its_prompt_is_refused(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "mpnet")
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(UnsupportedModelError, match="leaves its prompts out of the average"):
        locate_checkpoint(folder)


def test_the_old_layout_with_the_model_in_a_folder_of_its_own(tmp_path: Path) -> None:
    flat = write_family(tmp_path / "flat", "mpnet")
    nested = tmp_path / "nested" / "0_Transformer"
    nested.mkdir(parents=True)
    write_layout(nested.parent, pooling="mean")
    for path in flat.iterdir():
        if path.is_file() and path.name != "modules.json":
            path.rename(nested / path.name)
    modules = json.loads((nested.parent / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(nested.parent / "modules.json", modules)
    assert load(nested.parent).encode([torch.arange(5).numpy()]) is not None
    assert locate_checkpoint(nested.parent).folder == nested


def test_a_missing_part_of_the_weights_is_named(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "minilm")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)
    message = r"model-00002-of-00002\.safetensors is missing in .*1 of 2 parts of the weights"
    with pytest.raises(UnsupportedModelError, match=message):
        locate_checkpoint(folder)


def test_the_tokenizer_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "minilm")
    model = ContextualEmbedding(model=str(folder), device="cpu", dtype="float32")
    before = model.fingerprint()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    write_json(folder / "tokenizer.json", tokenizer)
    assert ContextualEmbedding(model=str(folder), device="cpu", dtype="float32").fingerprint() != before
    # The model itself has looked already, and refuses to load what its name does not say.
    assert model.fingerprint() == before
    with pytest.raises(UnsupportedModelError, match="others than when this model looked at them first"):
        model.get_query_embedding("who?")


def test_numbers_that_are_not_finite_reach_no_vector(folders: dict[str, Path]) -> None:
    """A profile can be wrong about an architecture; what comes out is still checked."""
    profile = dataclasses.replace(locate_checkpoint(folders["e5"]), pooling="cls")
    encoder = Encoder(profile, device=torch.device("cpu"), dtype=torch.float32)
    encoder._model.embeddings.word_embeddings.weight.data[encoder.suffix_ids[-1]] = math.inf
    from rag_embed.errors import NonFiniteError

    with pytest.raises(NonFiniteError, match="returned NaN or infinite token states"):
        embed_isolated(encoder, ["Berlin"])
