"""Trained multi-vector checkpoints against sentence-transformers' own class on the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from torch import Tensor

from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.chunked_text import ChunkedText
from rag_embed.encoder import Encoder
from rag_embed.errors import InputError, UnsupportedModelError
from rag_embed.late_chunking import Strategy
from rag_embed.loading import load_embedder
from rag_embed.max_sim import TokenForm, max_sim, to_units
from rag_embed.profiles import Profile, locate_checkpoint
from rag_embed.recipe import Recipe
from rag_embed.spans import CharSpan
from tests.checkpoints import write_json
from tests.checkpoints_multi_vector import (
    HEADS,
    write_multi_vector,
    write_pylate,
    write_stanford,
)

QUERIES = ["which river?", "Is it the capital of Germany, or Berlin?", "bridges (and people)"]
DOCUMENTS = [
    "Berlin is the capital of Germany.",
    "This city has people, bridges & a river: with 3 of them...",
    "!",
]
FIXED = {"strategy": "fixed", "attend": False, "length": 24}


@dataclass(frozen=True, slots=True)
class Exact(TokenForm):
    """Keeps what a form is handed, as it is."""

    def keep(self, token_states: Tensor) -> Tensor:
        return torch.nn.functional.normalize(token_states)


EXACT, HALF = Exact("float16", 1), TokenForm("float16", 1)


def embedder_of(
    folder: Path, strategy: Strategy = "isolated", form: TokenForm = EXACT, **options: object
) -> ChunkEmbedder:
    recipe = Recipe(model=folder, dtype="float32", strategy=strategy, adapter=None, **options)
    return load_embedder(recipe, device="cpu", token_form=form)


def peer_of(folder: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)


def documents_of(*texts: str) -> list[ChunkedText]:
    return [ChunkedText(text, [CharSpan(0, len(text))]) for text in texts]


def check_against_peer(folder: Path) -> None:
    """Token vectors and scores of texts alone, query by query and document by document."""
    peer, embedder = peer_of(folder), embedder_of(folder)
    queries = peer.encode_query(QUERIES, convert_to_numpy=True)
    documents = peer.encode_document(DOCUMENTS, convert_to_numpy=True)
    asked = [embedder.embed_query_tokens(query) for query in QUERIES]
    kept = [tokens[0] for _, tokens in embedder.embed_with_tokens(documents_of(*DOCUMENTS))]
    for found, wanted in zip([*asked, *kept], [*queries, *documents], strict=True):
        assert found is not None and found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-5
    sums = [[len(query) * max_sim(query, chunk) for chunk in kept] for query in asked]
    assert np.abs(np.array(sums) - peer.similarity(queries, documents).numpy()).max() < 1e-4
    for text, found in zip(DOCUMENTS, kept, strict=True):
        (again,) = embedder_of(folder, form=HALF).read_tokens(*documents_of(text), [0])
        assert np.abs(to_units(again) - found).max() < 1e-3


# ---------------------------------------------------------------- equal to sentence-transformers


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_peers_token_vectors(tmp_path: Path, head: str) -> None:
    check_against_peer(write_multi_vector(tmp_path, head=head))


@pytest.mark.parametrize("backbone", ["bert", "modernbert", "mpnet", "xlm-roberta"])
@pytest.mark.parametrize(
    "expansion",
    [
        FIXED,
        FIXED | {"attend": True},
        FIXED | {"strategy": "min", "length": 14},
    ],
    ids=["unseen", "attended", "least"],
)
def test_every_encoder_expands_queries_as_the_peer_does(
    tmp_path: Path, backbone: str, expansion: dict[str, object]
) -> None:
    if backbone == "mpnet":
        expansion = expansion | {"token": "</s>"}
    if backbone == "xlm-roberta":
        expansion = expansion | {"length": 48}  # letter by letter: its queries are long
    check_against_peer(write_multi_vector(tmp_path, backbone=backbone, query_expansion=expansion))


@pytest.mark.parametrize("skipping", [("document",), ("query", "document"), ("query",)])
def test_punctuation_is_left_out_on_the_sides_that_say_so(tmp_path: Path, skipping: tuple[str, ...]) -> None:
    folder = write_multi_vector(tmp_path, skipping=skipping, query_expansion=FIXED)
    check_against_peer(folder)
    everything = write_multi_vector(tmp_path / "all", skiplist=(), query_expansion=FIXED)
    check_against_peer(everything)
    text = "people, bridges"
    few, many = (
        next(embedder_of(each).embed_with_tokens(documents_of(text)))[1][0] for each in (folder, everything)
    )
    assert few is not None and many is not None
    assert len(many) - len(few) == ("document" in skipping)


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "[Q] ", "document": "[D] "},
        {"query": "search: ", "passage": "the city: "},
        {"query": "[MASK] ", "document": "[SEP]"},
        {},
    ],
)
def test_prompts_are_read_as_the_peer_reads_them(tmp_path: Path, prompts: dict[str, str]) -> None:
    folder = write_multi_vector(tmp_path, prompts=prompts, query_expansion=FIXED | {"length": 30})
    check_against_peer(folder)
    assert locate_checkpoint(folder).query_prefix == prompts.get("query", "")


@pytest.mark.parametrize("backbone", ["bert", "modernbert"])
@pytest.mark.parametrize("model_type", ["ColBERT", None])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attend_to_expansion_tokens": True, "prompts": {"query": "[Q] find "}},
        {"do_query_expansion": False, "skiplist_words": ["of", "."]},
        {"skiplist_words": ...},
    ],
)
def test_pylates_layout_is_read_as_the_peer_reads_it(
    tmp_path: Path, backbone: str, model_type: str | None, settings: dict[str, object | EllipsisType]
) -> None:
    folder = write_pylate(tmp_path, backbone=backbone, model_type=model_type, **settings)
    check_against_peer(folder)
    peer_of(folder).save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    check_against_peer(tmp_path / "saved")
    texts = [locate_checkpoint(each).document_prefix for each in (folder, tmp_path / "saved")]
    assert texts == ["[D] ", "[D] "]


def test_pylates_prefix_without_a_token_is_ordinary_text(tmp_path: Path) -> None:
    check_against_peer(write_pylate(tmp_path, markers=(), query_length=30))


@pytest.mark.parametrize(
    "metadata", [{}, {"attend_to_mask_tokens": True, "mask_punctuation": False}, {"query_maxlen": None}]
)
def test_stanfords_layout_is_read_as_the_peer_reads_it(tmp_path: Path, metadata: dict[str, object]) -> None:
    folder = write_stanford(tmp_path, **metadata)
    check_against_peer(folder)
    profile = locate_checkpoint(folder)
    assert (profile.query_prefix, profile.document_prefix) == ("[unused0] ", "[unused1] ")
    before = fingerprint(folder)
    write_json(folder / "artifact.metadata", {"mask_punctuation": None})
    assert fingerprint(folder) != before
    check_against_peer(folder)


def test_stanfords_layout_without_a_head_is_refused(tmp_path: Path) -> None:
    path = write_stanford(tmp_path) / "model.safetensors"
    weights = load_file(path)
    save_file({key: value for key, value in weights.items() if key != "linear.weight"}, path)
    with pytest.raises(UnsupportedModelError, match=r"model\.safetensors gives no 'linear\.weight'"):
        locate_checkpoint(path.parent)
    save_file(weights | {"linear.weight": torch.full((12, 32), torch.inf)}, path)
    with pytest.raises(UnsupportedModelError, match=r"model\.safetensors holds NaN or infinite"):
        load(path.parent)


def test_a_long_query_is_read_whole_where_the_peer_cuts_it(tmp_path: Path) -> None:
    folder = write_multi_vector(tmp_path, query_expansion=FIXED | {"length": 12})
    query = "which river of this city has bridges, and are people with it?"
    embedder = embedder_of(folder)
    assert len(peer_of(folder).encode_query(query)) == 12
    assert len(embedder.embed_query_tokens(query)) == len(embedder.encoder.tokenize(query)) + 2


# ---------------------------------------------------------------- in context


@pytest.mark.parametrize("backbone", ["bert", "modernbert"])
def test_chunks_of_a_document_have_the_states_of_the_peers_one_pass(tmp_path: Path, backbone: str) -> None:
    """The slice of the peer's states, through the same head; punctuation is left out of each."""
    folder = write_pylate(tmp_path, backbone=backbone)
    text = "Berlin is the capital. It has a river, bridges..."
    cuts = [(0, 22), (22, 45), (45, len(text))]
    document = ChunkedText(text, [CharSpan(*cut) for cut in cuts])
    embedder, peer = embedder_of(folder, "late"), peer_of(folder)
    ((vectors, kept),) = embedder.embed_with_tokens([document])
    raw = peer.encode_document([text], output_value=None)[0]
    states, is_scored = raw["token_embeddings"].numpy(), raw["attention_mask"].numpy()
    offsets = list(peer.tokenizer(text, return_offsets_mapping=True)["offset_mapping"])[1:-1]
    own, scored = states[2:-1], is_scored[2:-1]  # behind [CLS] and [D]
    assert len(own) == len(offsets)
    for (start, end), vector, found in zip(cuts, vectors, kept, strict=True):
        inside = np.array([start <= first < end for first, _ in offsets])
        wanted = own[inside & scored] if (inside & scored).any() else own[inside]
        assert found is not None and np.abs(found - wanted).max() < 1e-5
        mean = own[inside].mean(axis=0)
        assert np.abs(vector.numpy() - mean / np.linalg.norm(mean)).max() < 1e-5
    for row, again in zip(
        [2, 0], embedder_of(folder, "late", HALF).read_tokens(document, [2, 0]), strict=True
    ):
        assert np.abs(to_units(again) - kept[row]).max() < 1e-3


def test_a_chunk_of_punctuation_alone_keeps_it(tmp_path: Path) -> None:
    document = ChunkedText("people ... river", [CharSpan(0, 6), CharSpan(6, 11), CharSpan(11, 16)])
    ((_, kept),) = embedder_of(write_multi_vector(tmp_path), "late").embed_with_tokens([document])
    assert kept[1] is not None and len(kept[1]) == 3


def test_the_vector_of_a_text_is_the_mean_of_its_token_vectors(tmp_path: Path) -> None:
    folder = write_multi_vector(tmp_path, skiplist=(), prompts={"query": "[Q] ", "document": "[D] "})
    peer, embedder = peer_of(folder), embedder_of(folder)
    for found, wanted in (
        (embedder.embed_texts(DOCUMENTS[:1])[0], peer.encode_document(DOCUMENTS[0])),
        (embedder.embed_query(QUERIES[0]), peer.encode_query(QUERIES[0])),
    ):
        mean = wanted.mean(dim=0)
        assert found.shape == (12,)
        assert torch.allclose(found, mean / mean.norm(), atol=1e-5)


def test_texts_that_wear_a_prefix_are_refused(tmp_path: Path) -> None:
    embedder = embedder_of(write_pylate(tmp_path))
    with pytest.raises(InputError, match="begins with the prefix"):
        embedder.embed_query("[Q] which river?")


def test_a_marker_inside_a_text_is_its_characters(tmp_path: Path) -> None:
    encoder = embedder_of(write_pylate(tmp_path)).encoder
    marked, plain = encoder.tokenize("[D] river [D] "), encoder.tokenize("river [D] ")
    assert len(marked) == len(plain) + 1 == 5
    assert marked.starts.tolist() == [0, 4, 10, 11, 12]
    assert marked.ends.tolist() == [4, 9, 11, 12, 13]


# ---------------------------------------------------------------- fingerprint and profile


def edit(folder: Path, name: str, **changes: object) -> None:
    write_json(folder / name, json.loads((folder / name).read_text()) | changes)


def edit_weights(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    path = folder / "1_Dense" / "model.safetensors"
    save_file({"linear.weight": change(load_file(path)["linear.weight"])}, path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "weights": lambda folder: edit_weights(folder, lambda weight: weight * 1.5 + 0.1),
    "activation": lambda folder: edit(
        folder, "1_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh"
    ),
    "words": lambda folder: edit(folder, "2_MultiVectorMask/config.json", skiplist_words=["."]),
    "sides": lambda folder: edit(
        folder, "2_MultiVectorMask/config.json", skiplist_tasks=["query", "document"]
    ),
    "expansion": lambda folder: edit(
        folder, "sentence_bert_config.json", query_expansion=FIXED | {"attend": True}
    ),
    "prefix": lambda folder: edit(
        folder, "config_sentence_transformers.json", prompts={"query": "q: ", "document": ""}
    ),
}


def fingerprint(folder: Path) -> str:
    return Recipe(model=folder, strategy="late").fingerprint()


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_a_token_vector_is_in_the_fingerprint(tmp_path: Path, change: str) -> None:
    folder = write_multi_vector(tmp_path, query_expansion=FIXED)
    before = fingerprint(folder)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere" / folder.name))
    assert fingerprint(moved) == before
    CHANGES[change](folder)
    assert fingerprint(folder) != before


def test_the_profile_says_what_it_is(tmp_path: Path) -> None:
    profile = locate_checkpoint(write_multi_vector(tmp_path, document_length=40))
    assert (profile.family.name, profile.pooling) == ("multi-vector", "mean")
    assert (profile.encoder_dim, profile.dim, profile.trained_tokens) == (32, 12, 40)


# ---------------------------------------------------------------- malformed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_multi_vector(tmp_path, head="one", query_expansion=FIXED)


def load(folder: Path) -> Encoder:
    profile: Profile = locate_checkpoint(folder)
    return Encoder(profile, device=torch.device("cpu"), dtype=torch.float32)


def edit_modules(folder: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    change(modules)
    write_json(folder / "modules.json", modules)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("1_Dense/config.json", {"in_features": 31}, r"1_Dense takes vectors of 31 .* gives 32"),
        ("1_Dense/config.json", {"out_features": 13}, r"1_Dense.model\.safetensors holds .*12, 32.*13, 32"),
        ("1_Dense/config.json", {"out_features": 0}, r"1_Dense.config\.json has out_features '0'"),
        ("1_Dense/config.json", {"bias": True}, r"1_Dense.model\.safetensors holds .*linear\.bias"),
        ("1_Dense/config.json", {"bias": "yes"}, r"1_Dense.config\.json has bias 'yes'; expected true or"),
        ("1_Dense/config.json", {"use_residual": True}, r"1_Dense.model\.safetensors .*residual\.weight"),
        ("1_Dense/config.json", {"activation_function": "os.system"}, r"config\.json has .*'os\.system'"),
        ("1_Dense/config.json", {"activation_function": "torch.nn.Bilinear"}, r"expected one of torch\.nn's"),
        ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, r"reads 'sentence_embedding'"),
        ("2_MultiVectorMask/config.json", {"skiplist_words": "."}, r"2_MultiVectorMask are \.; expected a l"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["image"]}, r"skiplist_tasks \['image'\]"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [5]}, r"keep_only_token_ids, which leaves"),
        ("3_Normalize/config.json", {"module_input_name": "x"}, r"modules\.json of .* normalises no token"),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "all"}}, r"expected the strategy"),
        (
            "sentence_bert_config.json",
            {"query_expansion": FIXED | {"length": -1}},
            r"expansion of .* is '-1'",
        ),
        ("sentence_bert_config.json", {"query_expansion": FIXED | {"length": 99}}, r"99 tokens and reads at"),
        ("sentence_bert_config.json", {"query_expansion": FIXED | {"token": "<m>"}}, r"'<m>', which its tok"),
        ("sentence_bert_config.json", {"query_expansion": FIXED | {"attend": 1}}, r"attend as true or false"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, r"has processing_kwargs"),
        (
            "sentence_bert_config.json",
            {"module_output_name": "x"},
            r"sentence_bert_config\.json has module_o",
        ),
        ("config_sentence_transformers.json", {"similarity_fn_name": "xtr"}, r"compares by 'xtr'; expected"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_files_name(
    folder: Path, name: str, changes: dict[str, object], message: str
) -> None:
    edit(folder, name, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        load(folder)


def test_layers_that_do_not_follow_each_other_are_refused(tmp_path: Path) -> None:
    folder = write_multi_vector(tmp_path, head="two")
    edit(folder, "2_Dense/config.json", in_features=21)
    with pytest.raises(UnsupportedModelError, match=r"2_Dense.config\.json takes vectors of 21 .* gives 20"):
        load(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_refused(folder: Path, number: float) -> None:
    edit_weights(folder, lambda weight: weight.index_fill(0, torch.tensor([3]), number))
    with pytest.raises(UnsupportedModelError, match=r"1_Dense.model\.safetensors holds NaN or infinite"):
        load(folder)


def test_weights_that_are_absent_or_no_safetensors_are_refused(folder: Path) -> None:
    path = folder / "1_Dense" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UnsupportedModelError, match=r"1_Dense.model\.safetensors could not be loaded"):
        load(folder)
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(UnsupportedModelError, match=r"1_Dense holds no model\.safetensors; .* can run code"):
        locate_checkpoint(folder)


@pytest.mark.parametrize("kind", ["HierarchicalTokenPooling", "Pooling", "Router", "nonesuch.Code"])
def test_an_unknown_module_is_refused(folder: Path, kind: str) -> None:
    edit_modules(folder, lambda modules: modules.append({"type": kind, "path": "4_More"}))
    name = kind.rsplit(".", 1)[-1]
    with pytest.raises(UnsupportedModelError, match=rf"modules\.json has a module '{name}'"):
        locate_checkpoint(folder)


@pytest.mark.parametrize("order", [[0, 3, 1, 2], [1, 0, 2, 3], [0, 1, 2, 2, 3], [1, 2, 3]])
def test_modules_in_another_order_are_refused(folder: Path, order: list[int]) -> None:
    edit_modules(folder, lambda modules: modules.__setitem__(slice(None), [modules[i] for i in order]))
    with pytest.raises(UnsupportedModelError, match=r"modules\.json lists .*; expected"):
        locate_checkpoint(folder)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b"])
def test_a_head_that_leaves_the_folder_is_not_followed(folder: Path, path: str) -> None:
    edit_modules(folder, lambda modules: modules[1].update(path=path))
    with pytest.raises(UnsupportedModelError, match="leads out of its folder"):
        locate_checkpoint(folder)


def test_every_setting_may_be_anything_without_a_traceback(folder: Path) -> None:
    """Each value of each settings file replaced by something else: loaded or refused, never another error."""
    bad: list[object] = [None, -1, 10**12, 1e400, "text", [], {"a": 1}, True, [[[]]]]
    outcomes = {"loaded": 0, "refused": 0}
    for path in sorted(folder.rglob("*config*.json")):
        whole = path.read_text()
        if path.name in ("tokenizer_config.json",) or path == folder / "config.json":
            continue
        for number, key in enumerate(json.loads(whole)):
            for value in bad[number % 3 :: 3]:
                path.write_text(json.dumps(json.loads(whole) | {key: value}))
                try:
                    load(folder)
                    outcomes["loaded"] += 1
                except UnsupportedModelError:
                    outcomes["refused"] += 1
        path.write_text(whole)
    load(folder)
    assert min(outcomes.values()) > 10, outcomes
