"""Small retrieval sets for tests, and their files."""

from __future__ import annotations

import json
from pathlib import Path

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document

from rag_embed.evaluation import EvalDocument, EvalSet, documents_as_set
from rag_embed.spans import CharSpan

CITIES = ("berlin", "bern", "oslo", "paris", "rome", "vienna", "prague", "lisbon")
SENTENCES = (
    "The old bridge was built of stone by people who came over the river.",
    "Its market opens on monday and is known for bread, fish and salt.",
    "A tram runs to the station every ten minutes until late at night.",
)


def make_documents(count: int = len(CITIES)) -> tuple[EvalDocument, ...]:
    """A document of three chunks per city; only the first chunk names it."""
    documents = []
    for city in CITIES[:count]:
        chunks = [f"{city.title()} is a city with {len(city)} gates. {SENTENCES[0]}", *SENTENCES[1:]]
        text, spans = "", []
        for chunk in chunks:
            text += "\n\n" if text else ""
            spans.append(CharSpan(len(text), len(text) + len(chunk)))
            text += chunk
        documents.append(EvalDocument(f"d-{city}", f"Guide to {city.title()}", text, tuple(spans)))
    return tuple(documents)


def make_set(count: int = len(CITIES)) -> EvalSet:
    """Two queries per city, answered by its first and by its third chunk."""
    documents = make_documents(count)
    queries, golds = {}, {}
    for doc, city in zip(documents, CITIES, strict=False):
        queries |= {
            f"{city}-0": f"How many gates has {city}?",
            f"{city}-2": f"How often runs a tram in {city}?",
        }
        golds |= {f"{city}-0": {f"{doc.doc_id}#0": 1}, f"{city}-2": {f"{doc.doc_id}#2": 1}}
    return EvalSet("cities", documents, queries, golds, has_titles=True)


PROSE = [
    "The {0} keeps its papers in a cool and dry cellar below the old hall. Rain never reaches them there. "
    "Visitors ask at the desk for a lamp and a pair of gloves before they go down the stairs.",
    "Every spring it invites painters who live nearby to show what they made in winter. The walls are "
    "white and high. Nobody pays to come in, and most people stay until the evening.",
]


def prose_set(names: tuple[str, ...] = ("museum", "library", "archive", "castle")) -> EvalSet:
    """Documents of two chunks that can spare a sentence; only the first chunk names the house."""
    documents = [Document(text="\n\n".join(part.format(name) for part in PROSE), id_=name) for name in names]
    return documents_as_set(
        documents, name="prose", splitter=SentenceSplitter(chunk_size=48, chunk_overlap=0)
    )


def write_lines(path: Path, rows: list[object]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_chunked(folder: Path, evalset: EvalSet) -> Path:
    """Write a set in the layout with given chunks."""
    write_lines(
        folder / "corpus.jsonl",
        [
            {
                "doc_id": d.doc_id,
                "title": d.title,
                "text": d.text,
                "chunks": [[s.start, s.end] for s in d.spans],
            }
            for d in evalset.documents
        ],
    )
    write_lines(
        folder / "queries.jsonl", [{"query_id": q, "text": text} for q, text in evalset.queries.items()]
    )
    rows = [
        "\t".join([query, *chunk.split("#"), str(relevance)])
        for query, golds in evalset.golds.items()
        for chunk, relevance in golds.items()
    ]
    (folder / "qrels.tsv").write_text("\n".join(["query_id\tdoc_id\tchunk_index\trelevance", *rows]) + "\n")
    return folder


def write_beir(folder: Path, evalset: EvalSet, *, split: str = "test") -> Path:
    """Write a set in BEIR's layout, judged by documents."""
    write_lines(
        folder / "corpus.jsonl",
        [{"_id": d.doc_id, "title": d.title, "text": d.text} for d in evalset.documents],
    )
    write_lines(folder / "queries.jsonl", [{"_id": q, "text": text} for q, text in evalset.queries.items()])
    rows = [f"{query}\t{gold.split('#')[0]}\t1" for query, golds in evalset.golds.items() for gold in golds]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder
