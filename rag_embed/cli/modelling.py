"""The command that shows which models are known, and how each is used."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from typer import Option

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output


def models(
    as_json: opt.Json = False,
    as_markdown: Annotated[
        bool, Option("--markdown", help="The tables of docs/models.md on standard output.")
    ] = False,
) -> None:
    """Show the model families: dimensions, context, licence, prefixes, strategies, and how each is tested.

    Checkpoints of other families in sentence-transformers layout work as their own files say.
    """
    from rag_embed.profiles import list_families, render_markdown

    output = Output(as_json=as_json)
    rows = list_families()
    if as_json:
        output.json([asdict(row) for row in rows])
    elif as_markdown:
        output.text(render_markdown(rows))
    else:
        output.families(rows)
