"""How an evaluation is shown while it runs and when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rag_embed.cli.output import Output, SafeConsole

if TYPE_CHECKING:
    from rag_embed.evaluation import Evaluation
    from rag_embed.evaluation.vectors import OnStep

_TABLE_WIDTH = 190
_SHOWN = {"nDCG@10", "R@10"}
"""Measures on a terminal; the page and the JSON have all of them."""
_STYLES = {"up": "green", "down": "red", "open": "", "none": "dim"}
_BORDERS = {"use": "bold green", "simpler": "bold blue", "avoid": "bold red", "undecided": "bold"}


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

    def report(self, evaluation: Evaluation) -> None:
        """Show what was found, for people or for programs."""
        if self.as_json:
            self.json(evaluation.as_json())
        else:
            self.evaluation(evaluation)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Show the arms, what to know before believing them, and the verdict."""
        from rag_embed.evaluation.arms import ISOLATED, TITLED
        from rag_embed.evaluation.figures import describe, sign_of
        from rag_embed.evaluation.metrics import MEASURES

        counts = ", ".join(f"{count:,} {name}" for name, count in evaluation.counts.items())
        table = Table(title=f"{evaluation.name}: {counts}", title_justify="left", box=None)
        table.add_column("arm", no_wrap=True)
        has_inside = "document" in evaluation.sliced
        measures = [name for name in MEASURES if name in _SHOWN]
        for name in (
            *measures,
            "over isolated",
            *(["over title + chunk"] if evaluation.result(TITLED) else []),
            *(["inside"] if has_inside else []),
            *(["bytes/chunk", "ms/query", "ingestion s"] if evaluation.costs else []),
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for result in evaluation.results:
            cells = [Text(f"{100 * evaluation.mean(result, measure):.1f}") for measure in measures]
            for baseline in (ISOLATED, TITLED):
                if evaluation.result(baseline) is not None:
                    found = evaluation.difference(result, baseline)
                    cells.append(Text(describe(found), style=_STYLES[sign_of(found) if found else "none"]))
            if has_inside:
                cells.append(Text(f"{100 * evaluation.mean(result, MEASURES[0], 'document'):.1f}"))
            if (cost := evaluation.cost(result)) is not None:
                cells.append(Text(f"{cost.bytes_per_chunk:,.0f}"))
                cells.append(Text(f"{cost.query_ms:.2f}"))
                cells.append(Text(f"{cost.ingestion_s:,.2f}"))
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
        if evaluation.costs is not None:
            self._out.print(Text(evaluation.costs.note, style="dim"))
        for kind in sorted(set(evaluation.kinds)):
            gains = [
                f"{result.arm.name} {describe(evaluation.difference(result, ISOLATED, kind=kind))}"
                for result in evaluation.results
                if result.arm.is_contextual and not result.arm.is_reranked
            ]
            self._out.print(Text(f"{kind} queries: {'; '.join(gains)}", style="dim"))
        for warning in evaluation.warnings:
            self._out.print(Text(f"! {warning}", style="yellow"))
        if evaluation.fitted is not None:
            style = "green" if evaluation.fitted.is_recommended else ""
            self._out.print(Text(evaluation.fitted.sentence, style=style))
        self._out.print(Text(evaluation.verdict.sentence, style=_BORDERS[evaluation.verdict.decision]))
