"""What the command line shows: results on standard output, all else on standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rag_embed.files.faults import describe

if TYPE_CHECKING:
    from rag_embed.chat.passages import Passage
    from rag_embed.chat.turns import Turn
    from rag_embed.files.reading import Reading
    from rag_embed.indexes.filling import Filled, OnFailure
    from rag_embed.llamaindex.corpus import Progress as OnStep
    from rag_embed.llamaindex.corpus import SyncReport
    from rag_embed.profiles import CatalogueRow

SNIPPET_CHARACTERS = 180
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_RULE = re.compile(r"[*=~^#_-]{4,}")  # the lines under headings


class SafeConsole(Console):
    r"""Shows characters that a terminal would obey, such as those of an escape sequence, as `\x1b`.

    What is shown comes out of documents, file names, servers and language models; styles are added later.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Turn something into segments that are safe to write."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or not _UNSAFE.search(text):
                yield segment
            else:
                yield Segment(_UNSAFE.sub(_spell, text), segment.style)


class Output:
    """Writes for people or, as JSON, for programs.

    Args:
        as_json: Whether results are JSON.

    Attributes:
        is_partly: Whether documents were named that could not be read or indexed.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.is_partly = False
        self._stdout = sys.stdout
        self._out = SafeConsole(file=self._stdout, soft_wrap=True, highlight=False)
        self._err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Send to standard error what libraries print meanwhile; LlamaIndex's splitters and readers do."""
        with redirect_stdout(sys.stderr):
            yield

    def note(self, message: str, *, style: str = "dim") -> None:
        """Say something that is not the result."""
        self._err.print(Text(message, style=style))

    def error(self, message: str) -> None:
        """Say why it did not work."""
        self._err.print(Text.assemble(("error: ", "bold red"), message))

    def json(self, value: object) -> None:
        """Write a result for programs, on one line; what a terminal obeys or cannot show is escaped."""
        is_unicode = (self._stdout.encoding or "utf-8").lower().startswith("utf")
        line = json.dumps(value, ensure_ascii=not is_unicode)
        self.text(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line))

    def table(self, rows: Mapping[str, object]) -> None:
        """Show names and values."""
        table = Table(show_header=False, box=None)
        for name, value in rows.items():
            table.add_row(Text(name, style="dim"), Text(str(value)))
        self._out.print(table)

    def text(self, text: str) -> None:
        """Write a result as it is."""
        self._stdout.write(f"{text}\n")
        self._stdout.flush()

    def reading(self, reading: Reading) -> None:
        """Say which files were not read, and what to know of those that were."""
        self.is_partly |= bool(reading.failed)
        for what, found in (
            ("not read", reading.failed),
            ("skipped", reading.skipped),
            ("without text", reading.empty),
            ("note", reading.remarks),
        ):
            for name, reason in found.items():
                self.note(f"{what} {name}: {reason}", style="yellow")

    def families(self, rows: Sequence[CatalogueRow]) -> None:
        """Show the model families one below the other; a table of all this needs a very wide terminal."""
        for row in rows:
            dims = ", ".join(map(str, row.dims)) or "any"
            context = f"{row.max_tokens:,}" if row.max_tokens else "as its files say"
            is_late = "yes" if "late" in row.strategies else f"no, use {row.strategies[0]}"
            facts = {
                "": row.checkpoints,
                "dimensions": f"{dims}; context {context}; {row.licence}",
                "late chunking": is_late,
                "query prefix": repr(row.query_prefix) if row.query_prefix else "",
                "document prefix": repr(row.document_prefix) if row.document_prefix else "",
                "tested here": row.tested,
                "note": row.note,
            }
            self._out.print(Text(row.family, style="bold"))
            for name, value in facts.items():
                if value:
                    self._out.print(Text.assemble("  ", (f"{name}: " if name else "", "dim"), value))

    def passages(self, passages: Sequence[Passage]) -> None:
        """Show search results with their whole text."""
        for passage in passages:
            heading = Text.assemble(
                (f"{passage.rank}  ", "bold"), f"{passage.score:.4f}  ", (passage.place, "bold cyan")
            )
            if passage.retrieval_score != passage.score:
                heading.append(f"  (retrieved with {passage.retrieval_score:.4f})", style="dim")
            if passage.shown_tokens is not None:
                heading.append(f"  (list prompt {passage.shown_tokens} tokens)", style="dim")
            self._out.print(heading)
            self._out.print(Text(passage.text.strip()))
            self._out.print()

    def turn(self, turn: Turn) -> None:
        """Show one answer with its sources."""
        if turn.searched is not None:
            self.note(f"searched: {turn.searched}")
        if turn.answer:
            self._out.print(Text(turn.answer))
        if turn.error is not None:
            self.error(turn.error)
            return
        written_from = [citation for citation in turn.citations if not citation.is_quoted]
        if written_from:
            self._out.print()
            for citation in written_from:
                self._out.print(Text(f"[{citation.number}] {citation.place}", style="cyan"))
        if turn.unknown_numbers:
            numbers = ", ".join(f"[{number}]" for number in turn.unknown_numbers)
            self.note(f"the answer cites {numbers}, which no passage has", style="yellow")
        if turn.unranked is not None:
            self.note(turn.unranked, style="yellow")
        if turn.cut is not None:
            self.note(f"the first passage was cut: {turn.cut[0]} of {turn.cut[1]} tokens fit", style="yellow")
        if turn.left_out:
            places = ", ".join(passage.place for passage in turn.left_out)
            self.note(
                f"{len(turn.left_out)} passages left out, they do not fit into the LLM's context: {places}",
                style="yellow",
            )
        self._out.print()

    def comparison(self, query: str, results: Mapping[str, Sequence[Passage]]) -> None:
        """Show several results of one query side by side."""
        table = Table(title=Text(query, style="bold"), title_justify="left", expand=True, show_lines=True)
        for name in results:
            table.add_column(name, ratio=1, overflow="fold")
        for row in range(max(map(len, results.values()), default=0)):
            table.add_row(
                *(_cell(found[row]) if row < len(found) else Text("") for found in results.values())
            )
        SafeConsole(file=self._stdout, highlight=False).print(table)

    @contextmanager
    def watch(self, reading: Reading) -> Iterator[tuple[OnStep, OnFailure]]:
        """Show a bar while one folder is indexed; documents that fail are named, and join its failures."""

        def note_failure(document_id: str, error: Exception) -> None:
            reading.failed[document_id] = describe(error)
            self.is_partly = True
            self.note(f"not indexed {document_id}: {describe(error)}", style="yellow")

        total = sum(len(document.text) for document in reading.documents)
        with self.reserved(), self.progress(f"Indexing {reading.source}", total) as on_step:
            yield on_step, note_failure

    def filled(self, filled: Filled, *, name: str = "") -> None:
        """Say what became of one folder."""
        line = describe_sync(filled.reading.source, filled.report, filled.seconds)
        self.note(f"{name}: {line}" if name else line, style="green")

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[OnStep]:
        """Show a bar over characters, on a terminal only."""
        with self.bar(description, total) as advance:
            yield lambda done: advance(done.document_id, done.characters)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Callable[[str, int], None]]:
        """Show a bar, on a terminal only, and beside it what was last."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[document]}"),
        )
        with Progress(
            *columns, console=self._err, transient=True, disable=not self._err.is_terminal
        ) as progress:
            task = progress.add_task(description, total=total, document="")

            def advance(name: str, amount: int) -> None:
                progress.update(task, advance=amount, document=name[-40:])

            yield advance

    @contextmanager
    def counting(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over things that are counted, on a terminal only."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=self._err, transient=True, disable=not self._err.is_terminal
        ) as progress:
            task = progress.add_task(description, total=total)
            yield lambda done: progress.update(task, advance=done)


def describe_sync(source: str, report: SyncReport, seconds: float) -> str:
    """Summarise what indexing did, in one line."""
    parts = [
        f"{len(ids)} {state}"
        for state, ids in (
            ("added", report.added),
            ("changed", report.changed),
            ("removed", report.removed),
            ("unchanged", report.unchanged),
            ("kept though not seen", report.kept),
            ("failed", report.failed),
        )
        if ids
    ]
    embedded = (
        f"embedded {report.embedded} of {report.chunks} chunks in {seconds:.1f} s"
        if report.embedded
        else f"all {report.chunks} chunks were there already, nothing was embedded"
    )
    return f"{source}: {', '.join(parts) or 'no documents'}; {embedded}"


def _spell(found: re.Match[str]) -> str:
    return "" if found[0] == "\r" else found[0].encode("unicode_escape").decode()


def _cell(passage: Passage) -> Text:
    text = " ".join(_RULE.sub("", passage.text).split())
    shown = text if len(text) <= SNIPPET_CHARACTERS else f"{text[:SNIPPET_CHARACTERS].rstrip()} …"
    span = f"{passage.start}-{passage.end}"
    return Text.assemble(
        (f"{passage.score:.3f}", "bold"), f"  {span}\n", (passage.document, "cyan"), f"\n{shown}"
    )
