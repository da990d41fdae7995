"""The command line put together: its commands, and what becomes of errors."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from rag_embed.cli import asking, evaluating, indexing, modelling, training
from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.errors import RagEmbedError


class _Group(TyperGroup):
    """Prints deliberate errors as one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RagEmbedError as error:
            Output(as_json=False).error(str(error))
            raise typer.Exit(opt.ExitCode.FAILED) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Contextual chunk embeddings in Qdrant: index folders, search them, talk to them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no index, no documents or no result.",
)

for _command in (
    indexing.index,
    asking.search,
    asking.chat,
    asking.info,
    indexing.demo,
    evaluating.evaluate,
    training.train,
    modelling.models,
):
    app.command()(_command)
