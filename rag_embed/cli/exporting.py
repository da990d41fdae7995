"""The command `export`: checkpoints that vLLM and text-embeddings-inference serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from typer import Argument, Option

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output


def export(
    folder: Annotated[Path, Argument(help="Made; must not hold anything yet.", show_default=False)],
    model: Annotated[
        Optional[str],  # noqa: UP045  # noqa: UP045  # typer reads it on Python 3.10
        Option("--model", help="Embedded model's name, a folder, or a hub id. Default: the embedded model."),
    ] = None,
    adapter: Annotated[
        str, Option("--adapter", help='A shipped name, a folder by `rag-embed train`, "auto" or "none".')
    ] = "auto",
    as_json: opt.Json = False,
) -> None:
    """Write a model for servers: FOLDER/base as it is, FOLDER/context with the adapter merged."""
    from rag_embed.export import export_checkpoints
    from rag_embed.profiles import EMBEDDED_MODEL
    from rag_embed.recipe import Recipe

    recipe = Recipe(
        model=model or EMBEDDED_MODEL, adapter=None if adapter == "none" else adapter, engine="vllm"
    )
    output = Output(as_json=as_json)
    with output.reserved():
        written = export_checkpoints(recipe, folder)
    row = {
        "base": str(written.base),
        "context": str(written.context) if written.context else None,
        "adapter": written.adapter,
    }
    if as_json:
        output.json(row)
    else:
        output.table({name: value or "none" for name, value in row.items()})
