"""The command `train`: adapt to a corpus, and say whether it helped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from rag_embed.cli import options as opt
from rag_embed.cli.evaluating import EvaluationOutput, read_documents

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_embed.training.adaptation import Adaptation
    from rag_embed.training.progress import Snapshot

_DEFAULT_OUT = Path(".rag-embed-adapter")


def train(
    *,
    docs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--docs", help="Folder of documents; no questions are needed. Repeatable."),
    ] = None,
    queries: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            exists=True, dir_okay=False, help="JSONL with query, document and answer, as for `evaluate`."
        ),
    ] = None,
    set_folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--set", help="A retrieval set instead, as for `evaluate`; its queries are trained on."),
    ] = None,
    without_queries: Annotated[
        bool, typer.Option("--without-queries", help="Do not look at the set's queries.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the adapter.")] = _DEFAULT_OUT,
    model: opt.Model = None,
    steps: Annotated[int, typer.Option(min=1, help="At most; stops earlier without progress.")] = 60,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak.")] = 5e-4,
    seed: Annotated[int, typer.Option(help="Of the first weights, the order and the split.")] = 0,
    chunk_size: opt.ChunkSize = opt.DEFAULT_CHUNK_SIZE,
    json: opt.Json = False,
) -> None:
    """Train an adapter on your documents, measure it on some it never saw, and say whether to use it."""
    if bool(docs) == bool(set_folder):
        raise typer.BadParameter("name either --docs FOLDER or --set FOLDER")
    output = TrainingOutput(as_json=json)
    from dataclasses import replace

    from rag_embed.evaluation import read_set
    from rag_embed.llamaindex import ContextualEmbedding
    from rag_embed.training.adaptation import adapt
    from rag_embed.training.trainer import TrainingOptions

    embed_model = ContextualEmbedding(model=model) if model else ContextualEmbedding()
    with output.reserved():
        if set_folder is not None:
            evalset = read_set(set_folder)
            if without_queries:
                evalset = replace(evalset, queries={}, golds={}, gold_spans={}, kinds={})
        else:
            evalset = read_documents(docs or [], queries, chunk_size=chunk_size, leave_out=out, output=output)
    window_tokens = embed_model.window_options.window_tokens
    options = TrainingOptions(
        steps=steps, check_every=max(1, steps // 4), learning_rate=learning_rate, seed=seed
    )
    if embed_model.located_adapter is None and window_tokens is not None:
        options = replace(options, window_tokens=window_tokens)
    with output.reserved(), output.steps() as on_evaluate, output.training(steps) as on_step:
        adaptation = adapt(
            evalset, out, model=embed_model, options=options, on_step=on_step, on_evaluate=on_evaluate
        )
    if json:
        output.json(
            {
                "adapter": str(adaptation.folder),
                "gain": [round(value, 5) for value in adaptation.gain],
                "is_recommended": adaptation.is_recommended,
                "sentence": adaptation.sentence,
                "evaluation": adaptation.evaluation.as_json(),
            }
        )
    else:
        output.adaptation(adaptation)


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
        self.evaluation(adaptation.evaluation)
        style = "bold green" if adaptation.is_recommended else "bold yellow"
        self._out.print(Text(adaptation.sentence, style=style))
        if adaptation.is_recommended:
            self._out.print(Text(f'ContextualEmbedding(adapter="{adaptation.folder}")'))
