"""The command line put together: its commands, and what becomes of errors."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from rag_embed.cli import (
    asking,
    evaluating,
    exporting,
    indexing,
    migrating,
    modelling,
    moving,
    serving,
    training,
)
from rag_embed.cli.failing import belongs_to_typer, explain
from rag_embed.cli.output import Output


class _Group(TyperGroup):
    """Prints whatever goes wrong as one message, without a traceback, and tells the shell by an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BaseException as error:  # an engine's panic is no Exception, neither is Ctrl-C
            if belongs_to_typer(error):
                raise
            message, code = explain(error)
            Output(as_json=False).error(message)
            raise typer.Exit(code) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Contextual chunk embeddings in Qdrant: index folders, search them, talk to them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no index, no documents or no result, "
    "4 done but for what was named, 130 interrupted, 143 terminated.",
)

for _command in (
    indexing.index,
    asking.search,
    asking.chat,
    asking.info,
    migrating.migrate,
    serving.mcp,
    moving.copy,
    indexing.demo,
    evaluating.evaluate,
    training.train,
    modelling.models,
    exporting.export,
):
    app.command()(_command)
