"""The command `evaluate`: does context pay on these documents?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output, SafeConsole
from rag_embed.cli.preparing import read_sources

if TYPE_CHECKING:
    from rag_embed.evaluation import EvalSet, Evaluation
    from rag_embed.evaluation.vectors import OnStep

_DEFAULT_CACHE = Path(".rag-embed-evaluation")
_PROXY_QUERIES = 200
_TABLE_WIDTH = 150
_CORPUS = "What is searched, and asked"
_STYLES = {"up": "green", "down": "red", "open": "", "none": "dim"}
_BORDERS = {"use": "bold green", "prefix": "bold blue", "avoid": "bold red", "undecided": "bold"}


def evaluate(
    *,
    docs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--docs", help="Folder of documents. Repeatable.", rich_help_panel=_CORPUS),
    ] = None,
    queries: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSONL with query, document and answer, for --docs. Default: proxies made from the corpus.",
            rich_help_panel=_CORPUS,
        ),
    ] = None,
    set_folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--set", help="A retrieval set: BEIR layout, or chunked.", rich_help_panel=_CORPUS),
    ] = None,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a BEIR set. Default: test.", rich_help_panel=_CORPUS),
    ] = None,
    chunk_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=8,
            help=f"Cut documents anew. Default: {opt.DEFAULT_CHUNK_SIZE} for --docs, given chunks for --set.",
            rich_help_panel=_CORPUS,
        ),
    ] = None,
    limit_documents: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Draw so many documents.", rich_help_panel=_CORPUS),
    ] = None,
    limit_queries: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=2,
            help=f"Draw so many queries. Default: all, or {_PROXY_QUERIES} proxies.",
            rich_help_panel=_CORPUS,
        ),
    ] = None,
    within_document: Annotated[
        bool,
        typer.Option(
            "--within-document",
            help="Queries do not name their document: decide by the ranking inside it.",
            rich_help_panel=_CORPUS,
        ),
    ] = False,
    no_titles: Annotated[
        bool, typer.Option("--no-titles", help="Leave titles out of all arms.", rich_help_panel=_CORPUS)
    ] = False,
    model: opt.Model = None,
    adapter: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help='A name, a folder by `rag-embed train`, or "none". Default: the shipped one.',
            rich_help_panel="Model",
        ),
    ] = None,
    arms: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help='Some arms only, such as "late, title + blend 0.5".', rich_help_panel="Model"),
    ] = None,
    alpha: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(
            min=0, max=1, help="Share of context in the blends. Repeatable.", rich_help_panel="Model"
        ),
    ] = None,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            help="Also each arm reranked; a forward pass per query and arm.",
            rich_help_panel="Model",
        ),
    ] = False,
    cache: Annotated[Path, typer.Option(help="Where vectors are kept.")] = _DEFAULT_CACHE,
    html: opt.Html = None,
    json: opt.Json = False,
) -> None:
    """Measure whether context pays on a corpus, against isolated chunks, titles and BM25, with a verdict."""
    if bool(docs) == bool(set_folder):
        raise typer.BadParameter("name either --docs FOLDER or --set FOLDER")
    if queries is not None and not docs:
        raise typer.BadParameter("--queries belongs to --docs; a --set has its own")
    output = EvaluationOutput(as_json=json)
    from rag_embed.cli.opening import ModelOptions
    from rag_embed.evaluation import VectorCache, choose_arms, make_arms, make_proxy_queries, sample_set
    from rag_embed.evaluation import evaluate as evaluate_arms
    from rag_embed.evaluation.arms import ALPHAS
    from rag_embed.evaluation.machine import describe_machine
    from rag_embed.evaluation.vectors import with_options

    with output.reserved():
        if set_folder is not None:
            evalset = _read_set(set_folder, split, chunk_size, limit_documents, limit_queries)
        else:
            chunk_size = chunk_size or opt.DEFAULT_CHUNK_SIZE
            evalset = read_documents(
                docs or [], queries, chunk_size=chunk_size, leave_out=cache, output=output
            )
            evalset = sample_set(
                evalset, documents=limit_documents, queries=limit_queries if queries else None
            )
            if queries is None:
                evalset = make_proxy_queries(evalset, limit_queries or _PROXY_QUERIES)
    evalset = replace(
        evalset,
        has_titles=evalset.has_titles and not no_titles,
        is_within_document=evalset.is_within_document or within_document,
    )
    embed_model = ModelOptions(model, adapter=adapter).make()
    located = with_options(embed_model, strategy="late").located_adapter
    chosen = make_arms(
        embed_model,
        has_titles=evalset.has_titles,
        alphas=alpha or ALPHAS,
        with_rerank=rerank,
    )
    if arms is not None:
        chosen = choose_arms(chosen, arms.split(","))
    settings = {
        "chunks": f"cut to at most {chunk_size} tokens" if chunk_size else "as the set gives them",
        "adapter": located.name if located else "none",
        "command": shlex.join(["rag-embed", *sys.argv[1:]]),
        "machine": describe_machine(),
    }
    with output.steps() as on_step:
        evaluation = evaluate_arms(
            evalset,
            chosen,
            model=embed_model,
            cache=VectorCache(cache),
            settings=settings,
            on_step=on_step,
        )
    if json:
        output.json(evaluation.as_json())
    else:
        output.evaluation(evaluation)
    if html is not None:
        # After the figures are shown: a disk that is full by now must not take them along.
        from rag_embed.evaluation.page import render_page

        html.write_text(render_page(evaluation), encoding="utf-8")
        output.note(f"report: {html}", style="green")


def _read_set(
    folder: Path, split: str | None, chunk_size: int | None, documents: int | None, queries: int | None
) -> EvalSet:
    from rag_embed.evaluation import read_set, rechunk_set, sample_set

    evalset = sample_set(read_set(folder, split=split), documents=documents, queries=queries)
    if chunk_size is None:
        return evalset
    from llama_index.core.node_parser import SentenceSplitter

    return rechunk_set(evalset, SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0))


def read_documents(
    folders: list[Path], queries: Path | None, *, chunk_size: int, leave_out: Path, output: Output
) -> EvalSet:
    """Read folders as a set, with its queries if a file holds them."""
    from llama_index.core.node_parser import SentenceSplitter

    from rag_embed.evaluation import documents_as_set, read_queries

    readings = read_sources(folders, False, leave_out, output)
    documents = [document for reading in readings for document in reading.documents]
    if not documents:
        output.error("there are no documents in these folders; nothing was done")
        raise typer.Exit(opt.ExitCode.EMPTY)
    evalset = documents_as_set(
        documents,
        name=", ".join(reading.source for reading in readings),
        splitter=SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0),
    )
    return evalset if queries is None else read_queries(queries, evalset)


class EvaluationOutput(Output):
    """Shows evaluations and their progress."""

    @contextmanager
    def steps(self) -> Iterator[OnStep]:
        """Show a bar over documents and queries, on a terminal only."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=self._err, transient=True, disable=not self._err.is_terminal
        ) as progress:
            task = progress.add_task("", total=None)
            shown = ""

            def step(what: str, done: int, total: int) -> None:
                nonlocal shown
                if what != shown:
                    shown = what
                    progress.reset(task, total=total, description=f"Embedding: {what}")
                progress.update(task, completed=done)

            yield step

    def evaluation(self, evaluation: Evaluation) -> None:
        """Show the arms, what to know before believing them, and the verdict."""
        from rag_embed.evaluation.arms import ISOLATED, TITLED
        from rag_embed.evaluation.figures import describe, sign_of
        from rag_embed.evaluation.metrics import MEASURES

        counts = ", ".join(f"{count:,} {name}" for name, count in evaluation.counts.items())
        table = Table(title=f"{evaluation.name}: {counts}", title_justify="left", box=None)
        table.add_column("arm", no_wrap=True)
        has_inside = "document" in evaluation.sliced
        for name in (
            *MEASURES,
            "over isolated",
            *(["over title + chunk"] if evaluation.result(TITLED) else []),
            *(["inside"] if has_inside else []),
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for result in evaluation.results:
            cells = [Text(f"{100 * evaluation.mean(result, measure):.1f}") for measure in MEASURES]
            for baseline in (ISOLATED, TITLED):
                if evaluation.result(baseline) is not None:
                    found = evaluation.difference(result, baseline)
                    cells.append(Text(describe(found), style=_STYLES[sign_of(found) if found else "none"]))
            if has_inside:
                cells.append(Text(f"{100 * evaluation.mean(result, MEASURES[0], 'document'):.1f}"))
            mark = " *" if result.arm.is_default else ""
            table.add_row(Text(f"{result.arm.name}{mark}"), *cells)
        # Numbers are worth more than a neat right edge: on a narrow terminal the lines wrap.
        SafeConsole(file=self._stdout, highlight=False, width=max(self._out.width, _TABLE_WIDTH)).print(table)
        self._out.print(
            Text(
                "In hundredths; differences are in nDCG@10 with their 95 % intervals. "
                "* the default. inside: nDCG@10 when only the right document's chunks compete.",
                style="dim",
            )
        )
        for kind in sorted(set(evaluation.kinds)):
            gains = [
                f"{result.arm.name} {describe(evaluation.difference(result, ISOLATED, kind=kind))}"
                for result in evaluation.results
                if result.arm.is_contextual and not result.arm.is_reranked
            ]
            self._out.print(Text(f"{kind} queries: {'; '.join(gains)}", style="dim"))
        for warning in evaluation.warnings:
            self._out.print(Text(f"! {warning}", style="yellow"))
        self._out.print(Text(evaluation.verdict.sentence, style=_BORDERS[evaluation.verdict.decision]))
