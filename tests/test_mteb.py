"""MTEB's own evaluator runs the models, and finds what ours finds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("mteb", reason="needs the extra mteb", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # of mteb and datasets

from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol, SearchEncoderWrapper  # noqa: E402
from mteb.timing import TimingStack  # noqa: E402

from rag_embed.errors import InputError  # noqa: E402
from rag_embed.evaluation import VectorCache, evaluate, make_arms  # noqa: E402
from rag_embed.evaluation.mteb import MtebEncoder, split_chunk_id  # noqa: E402
from rag_embed.evaluation.sets import EvalSet  # noqa: E402
from rag_embed.evaluation.vectors import Vectors, with_options  # noqa: E402
from rag_embed.llamaindex import ContextualEmbedding  # noqa: E402
from tests.evalsets import make_set  # noqa: E402


class Cities(AbsTaskRetrieval):
    """A retrieval task over a set of ours: chunks of documents, with ids as ConTEB has them."""

    metadata = TaskMetadata(
        name="Cities",
        description="Made for this test.",
        dataset={"path": "none", "revision": "none"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def fill(self, evalset: EvalSet, *, order=None):
        rows = [
            {"id": f"{doc.doc_id}_{index}", "title": doc.title, "text": chunk}
            for doc in evalset.documents
            for index, chunk in enumerate(doc.chunks)
        ]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list([rows[i] for i in order] if order else rows),
                    "queries": Dataset.from_list(
                        [{"id": query, "text": text} for query, text in evalset.queries.items()]
                    ),
                    "relevant_docs": {
                        query: {gold.replace("#", "_"): grade for gold, grade in golds.items()}
                        for query, golds in evalset.golds.items()
                    },
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True
        return self


def run(task, encoder):
    """MTEB's scores of one split."""
    return task._evaluate_subset(
        encoder,
        task.dataset["default"]["test"],
        encode_kwargs={"batch_size": 4, "show_progress_bar": False},
        hf_split="test",
        hf_subset="default",
        timer=TimingStack(),
    )


@pytest.fixture
def model(tiny_folder):
    return ContextualEmbedding(model=str(tiny_folder), dtype="float32", device="cpu", adapter=None)


@pytest.mark.parametrize("strategy", ["isolated", "late", "blend"])
def test_mteb_measures_what_we_measure(model, strategy):
    evalset = make_set()
    encoder = MtebEncoder(with_options(model, strategy=strategy), document_of=split_chunk_id)
    assert isinstance(encoder, EncoderProtocol)
    scores = run(Cities().fill(evalset), encoder)
    arms = [arm for arm in make_arms(model, has_titles=True) if arm.method == "vectors"]
    ours = evaluate(evalset, arms, model=model)
    name = {"isolated": "title + isolated", "late": "title + late", "blend": "title + blend 0.6"}[strategy]
    result = ours.result(name)
    assert scores["ndcg_at_10"] == pytest.approx(ours.mean(result, "nDCG@10"), abs=1e-4)
    assert scores["recall_at_5"] == pytest.approx(ours.mean(result, "R@5"), abs=1e-4)
    assert scores["mrr_at_10"] == pytest.approx(ours.mean(result, "RR@10"), abs=1e-4)


def test_chunks_are_read_in_their_document_whatever_their_order(model):
    evalset = make_set(4)
    late = with_options(model, strategy="late")
    expected = Vectors(evalset.documents, cache=VectorCache(None)).chunks(late, with_title=True)
    ids = [chunk.replace("#", "_") for chunk in evalset.chunk_ids]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist()
    titles = [doc.title for doc in evalset.documents for _ in doc.spans]
    texts = evalset.chunk_texts
    batches = [
        {
            "id": [ids[i] for i in part],
            "text": [f"{titles[i]} {texts[i]}" for i in part],
            "body": [texts[i] for i in part],
            "title": [titles[i] for i in part],
        }
        for part in (order[:5], order[5:])
    ]
    encoder = MtebEncoder(late, document_of=split_chunk_id)
    found = encoder.encode(batches)
    assert torch.equal(found, expected[order])
    alone = MtebEncoder(late).encode(batches)
    assert not torch.allclose(alone, found)


def test_a_document_with_eleven_chunks_is_in_reading_order(model):
    texts = [f"part {'abcdefghijkl'[i]} of the city" for i in range(12)]
    batch = {"id": [f"d_{i}" for i in range(12)], "text": texts}
    encoder = MtebEncoder(with_options(model, strategy="late"), document_of=split_chunk_id)
    (document,), order = encoder._group(
        [{"id": i, "text": t} for i, t in zip(batch["id"], texts, strict=True)]
    )
    assert document.text == "\n\n".join(texts) and order == list(range(12))
    assert encoder.encode([batch]).shape == (12, 32)


def test_ids_that_name_no_document_are_refused():
    assert split_chunk_id("a_b_7") == ("a_b", 7)
    with pytest.raises(
        InputError, match=r"the chunk id is 'paper'; expected 'document_number'. Pass document_of="
    ):
        split_chunk_id("paper")


def test_large_corpora_can_be_handed_over_at_once(model):
    encoder = MtebEncoder(with_options(model, strategy="late"), document_of=split_chunk_id)
    whole = run(Cities().fill(make_set(4)), SearchEncoderWrapper(encoder, corpus_chunk_size=1000))
    assert whole["ndcg_at_10"] == run(Cities().fill(make_set(4)), encoder)["ndcg_at_10"]


def test_the_card_names_model_and_vectors(model):
    meta = MtebEncoder(model).mteb_model_meta
    assert meta.name.startswith("rag-embed/tiny_bert") and meta.embed_dim == 32
    assert meta.revision == model.fingerprint().rsplit("/", 1)[-1]


@pytest.mark.slow
def test_scifact_agrees_within_a_tenth_of_a_point(tmp_path):
    root = Path(os.environ.get("RAG_EMBED_EVAL", Path(__file__).parent.parent / ".." / "shared" / "eval"))
    if not (root / "scifact" / "corpus.jsonl").is_file():
        pytest.skip("needs the set scifact in $RAG_EMBED_EVAL or ../shared/eval")
    from benchmarks import mteb_agreement

    mteb_agreement.main(["--results", str(tmp_path)])
    result = json.loads((tmp_path / "mteb_agreement.json").read_text())["results"]
    assert result["documents"] == 5183 and result["queries"] == 300
    assert abs(result["ours"] - result["mteb"]) < 0.1
