"""The retrieval sets of the benchmarks: where they are, how much of each, and what must not be used of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from corpora.folders import is_kept_back, sets_folder
from corpora.pages import replace_name
from rag_embed.evaluation import EvalDocument, EvalSet, read_set, sample_set
from rag_embed.evaluation.sets import keep_documents

DEFAULT_DOCUMENTS = {
    "cuad_small": 20,
    "covidqa": 15,
    "anthropic_codebase": 60,
    "chroma_chunking": 3,
    "qmsum_train": 5,
    "medquad_train": 150,
    "scifact": 350,
}
"""Sets, and how many of their documents; chosen so that all take a quarter of an hour on two cores."""
ANONYMISED = "medquad_anonymised"
"""Pages of medquad_train in which the name stands in the title alone."""
_TITLES_FROM_GOLDS = {"anthropic_codebase"}
_WITHIN_DOCUMENT = {"qmsum_train"}
_TRAINED_ON = {"qmsum_train", "medquad_train"}


def find_sets(names: Iterable[str]) -> Iterator[str]:
    """Those of the sets that are here; of the others it is said that they are skipped."""
    for name in names:
        folder = "medquad_train" if name == ANONYMISED else name
        if (sets_folder() / folder / "corpus.jsonl").is_file():
            yield name
        else:
            print(f"{name}: skipped, it is not in $RAG_EMBED_EVAL nor in ../shared/eval")


def load_set(name: str, *, documents: int | None, seed: int = 0) -> EvalSet:
    """Read a set, or a random sample of its documents as `sample_set` draws it.

    Of the sets that the shipped adapter was trained on, only the documents that its recipe keeps back.
    """
    folder = "medquad_train" if name == ANONYMISED else name
    evalset = replace(
        read_set(sets_folder() / folder),
        name=name,
        has_titles=name not in _TITLES_FROM_GOLDS | _WITHIN_DOCUMENT,
        is_within_document=name in _WITHIN_DOCUMENT,
    )
    if folder in _TRAINED_ON:
        ids = [doc.doc_id for doc in evalset.documents if is_kept_back(doc.doc_id)]
        evalset = keep_documents(evalset, ids)
    if name == ANONYMISED:
        evalset = replace(evalset, documents=tuple(_anonymise(doc) for doc in evalset.documents))
    return sample_set(evalset, documents=documents, seed=seed)


def _anonymise(document: EvalDocument) -> EvalDocument:
    if not document.title.strip():
        return document
    text, spans = replace_name(document.text, document.spans, document.title.strip())
    return replace(document, text=text, spans=tuple(spans))
