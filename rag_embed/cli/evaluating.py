"""The command `evaluate`: how should these documents be searched?"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import read_sources
from rag_embed.cli.reporting import EvaluationOutput
from rag_embed.indexes import DEFAULT_CHUNK_SIZE

if TYPE_CHECKING:
    from rag_embed.evaluation import EvalSet

_CORPUS = "What is searched, and asked"
_MODEL = "Model"


@dataclass(frozen=True, slots=True)
class CorpusChoice:
    """What is searched, and asked."""

    docs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--docs", help="Folder of documents. Repeatable.", rich_help_panel=_CORPUS),
    ] = None
    queries: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSONL with query, document and answer, for --docs. Default: proxies made from the corpus.",
            rich_help_panel=_CORPUS,
        ),
    ] = None
    set_folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--set", help="A retrieval set: BEIR layout, or chunked.", rich_help_panel=_CORPUS),
    ] = None
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a BEIR set. Default: test.", rich_help_panel=_CORPUS),
    ] = None
    chunk_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=8,
            help=f"Cut documents anew. Default: {DEFAULT_CHUNK_SIZE} for --docs, given chunks for --set.",
            rich_help_panel=_CORPUS,
        ),
    ] = None
    limit_documents: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Draw so many documents.", rich_help_panel=_CORPUS),
    ] = None
    limit_queries: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=2, help="Draw so many queries. Default: all, or 200 proxies.", rich_help_panel=_CORPUS
        ),
    ] = None
    within_document: Annotated[
        bool,
        typer.Option(
            "--within-document",
            help="Queries do not name their document: decide by the ranking inside it.",
            rich_help_panel=_CORPUS,
        ),
    ] = False
    no_titles: Annotated[
        bool, typer.Option("--no-titles", help="Leave titles out of all arms.", rich_help_panel=_CORPUS)
    ] = False

    @property
    def cut_size(self) -> int | None:
        """Most tokens of a chunk; None leaves a set's chunks as they are."""
        return self.chunk_size or (DEFAULT_CHUNK_SIZE if self.docs else None)


@dataclass(frozen=True, slots=True)
class ArmChoice:
    """Which ways to search are compared."""

    model: opt.Model = None
    adapter: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help='A name, a folder by `rag-embed train`, or "none". Default: the shipped one.',
            rich_help_panel=_MODEL,
        ),
    ] = None
    arms: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help='Some arms only, such as "late, title + late + words".', rich_help_panel=_MODEL),
    ] = None
    alpha: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(
            min=0, max=1, help="Share of context in the blends. Repeatable.", rich_help_panel=_MODEL
        ),
    ] = None
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            help="Also each contextual arm reranked by late interaction.",
            rich_help_panel=_MODEL,
        ),
    ] = False
    fit_weights: Annotated[
        bool,
        typer.Option(
            "--fit-weights",
            help="Fit the shares of words and late interaction on half of the queries, measure on the rest.",
            rich_help_panel=_MODEL,
        ),
    ] = False


@opt.spread
def evaluate(
    *,
    corpus: CorpusChoice,
    compared: ArmChoice,
    cache: Annotated[Path, typer.Option(help="Where vectors are kept.")] = Path(".rag-embed-evaluation"),
    html: opt.Html = None,
    json: opt.Json = False,
) -> None:
    """Measure how a corpus is best searched: by words, meaning or both, with context or without."""
    if bool(corpus.docs) == bool(corpus.set_folder):
        raise typer.BadParameter("name either --docs FOLDER or --set FOLDER")
    if corpus.queries is not None and not corpus.docs:
        raise typer.BadParameter("--queries belongs to --docs; a --set has its own")
    output, size = EvaluationOutput(as_json=json), corpus.cut_size
    from rag_embed.evaluation.comparison import compare_arms
    from rag_embed.indexes.opening import ModelOptions

    with output.reserved():
        evalset = _read_corpus(corpus, leave_out=cache, output=output)
    with output.steps() as on_step:
        evaluation = compare_arms(
            evalset,
            ModelOptions(compared.model, adapter=compared.adapter).make(),
            names=compared.arms.split(",") if compared.arms is not None else None,
            alphas=compared.alpha,
            with_rerank=compared.rerank,
            with_weights=compared.fit_weights,
            cache=cache,
            settings={
                "chunks": f"cut to at most {size} tokens" if size else "as the set gives them",
                "command": shlex.join(["rag-embed", *sys.argv[1:]]),
            },
            on_step=on_step,
        )
    output.report(evaluation)
    if html is not None:
        # After the figures are shown: a disk that is full by now must not take them along.
        from rag_embed.evaluation.page import render_page

        html.write_text(render_page(evaluation), encoding="utf-8")
        output.note(f"report: {html}", style="green")
    if output.is_partly:
        raise typer.Exit(opt.ExitCode.PARTLY)


def _read_corpus(corpus: CorpusChoice, *, leave_out: Path, output: Output) -> EvalSet:
    """Read what was named, and prepare it as was said."""
    from rag_embed.evaluation import read_set
    from rag_embed.evaluation.comparison import prepare_set

    if corpus.set_folder is not None:
        evalset = read_set(corpus.set_folder, split=corpus.split)
    else:
        size = corpus.cut_size or DEFAULT_CHUNK_SIZE
        evalset = read_documents(
            corpus.docs or [], corpus.queries, chunk_size=size, leave_out=leave_out, output=output
        )
    return prepare_set(
        evalset,
        chunk_size=corpus.chunk_size if corpus.set_folder else None,  # documents are cut already
        documents=corpus.limit_documents,
        queries=corpus.limit_queries,
        without_titles=corpus.no_titles,
        within_document=corpus.within_document,
    )


def read_documents(
    folders: list[Path], queries: Path | None, *, chunk_size: int, leave_out: Path, output: Output
) -> EvalSet:
    """Read folders as a set, with its queries if a file holds them."""
    from llama_index.core.node_parser import SentenceSplitter

    from rag_embed.evaluation import documents_as_set, read_queries

    readings = read_sources(folders, False, leave_out, output)
    evalset = documents_as_set(
        [document for reading in readings for document in reading.documents],
        name=", ".join(reading.source for reading in readings),
        splitter=SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0),
    )
    return evalset if queries is None else read_queries(queries, evalset)
