"""The command `train`: adapt to a corpus, and say whether it helped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rag_embed.cli import options as opt
from rag_embed.cli.evaluating import read_documents
from rag_embed.cli.output import Output
from rag_embed.cli.reporting import EvaluationOutput
from rag_embed.indexes import DEFAULT_CHUNK_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_embed.evaluation import EvalSet
    from rag_embed.training.adaptation import Adaptation
    from rag_embed.training.progress import Snapshot


@dataclass(frozen=True, slots=True)
class CorpusChoice:
    """What is adapted to."""

    docs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--docs", help="Folder of documents; no questions are needed. Repeatable."),
    ] = None
    queries: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            exists=True, dir_okay=False, help="JSONL with query, document and answer, as for `evaluate`."
        ),
    ] = None
    set_folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--set", help="A retrieval set instead, as for `evaluate`; its queries are trained on."),
    ] = None
    without_queries: Annotated[
        bool, typer.Option("--without-queries", help="Do not look at the set's queries.")
    ] = False
    chunk_size: opt.ChunkSize = DEFAULT_CHUNK_SIZE


@opt.spread
def train(
    *,
    corpus: CorpusChoice,
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")] = Path(".rag-embed-adapter"),
    model: opt.Model = None,
    steps: Annotated[int, typer.Option(min=1, help="At most; stops earlier without progress.")] = 60,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak.")] = 5e-4,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the first weights, the order and the split.")
    ] = 0,
    json: opt.Json = False,
) -> None:
    """Train an adapter on your documents, measure it on some it never saw, and say whether to use it."""
    if bool(corpus.docs) == bool(corpus.set_folder):
        raise typer.BadParameter("name either --docs FOLDER or --set FOLDER")
    output = TrainingOutput(as_json=json)
    from rag_embed.indexes.opening import ModelOptions
    from rag_embed.training.adaptation import adapt, choose_options

    embed_model = ModelOptions(model).make()
    with output.reserved():
        evalset = _read_corpus(corpus, leave_out=out, output=output)
    with output.reserved(), output.steps() as on_evaluate, output.training(steps) as on_step:
        adaptation = adapt(
            evalset,
            out,
            model=embed_model,
            options=choose_options(embed_model, steps=steps, learning_rate=learning_rate, seed=seed),
            on_step=on_step,
            on_evaluate=on_evaluate,
        )
    output.adaptation(adaptation)
    if output.is_partly:
        raise typer.Exit(opt.ExitCode.PARTLY)


def _read_corpus(corpus: CorpusChoice, *, leave_out: Path, output: Output) -> EvalSet:
    if corpus.set_folder is None:
        return read_documents(
            corpus.docs or [],
            corpus.queries,
            chunk_size=corpus.chunk_size,
            leave_out=leave_out,
            output=output,
        )
    from rag_embed.evaluation import read_set
    from rag_embed.evaluation.sets import without_queries

    evalset = read_set(corpus.set_folder)
    return without_queries(evalset) if corpus.without_queries else evalset


class TrainingOutput(EvaluationOutput):
    """Shows training and what came of it."""

    @contextmanager
    def training(self, steps: int) -> Iterator[Callable[[Snapshot], None]]:
        """Show a bar over steps with the loss, on a terminal only."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=self._err, transient=True, disable=not self._err.is_terminal
        ) as progress:
            task = progress.add_task("Training", total=steps)

            def step(snapshot: Snapshot) -> None:
                loss = f"Training, loss {snapshot.losses['total']:.3f}"
                progress.update(task, completed=snapshot.step, description=loss)

            yield step

    def adaptation(self, adaptation: Adaptation) -> None:
        """Show the held-out figures and the recommendation."""
        if self.as_json:
            self.json(adaptation.as_json())
            return
        self.evaluation(adaptation.evaluation)
        style = "bold green" if adaptation.is_recommended else "bold yellow"
        self._out.print(Text(adaptation.sentence, style=style))
        if adaptation.is_recommended:
            self._out.print(Text(f'ContextualEmbedding(adapter="{adaptation.folder}")'))
