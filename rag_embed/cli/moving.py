"""The command that moves an index between engines: `copy`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import make_place, open_existing

_TARGET = "Where the copy is made"


@opt.spread
def copy(
    *,
    to_store: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--to-store", help="Folder of an embedded Qdrant.", rich_help_panel=_TARGET),
    ] = None,
    to_url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--to-url", callback=opt.check_unicode, help="A Qdrant server.", rich_help_panel=_TARGET
        ),
    ] = None,
    to_api_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--to-api-key",
            callback=opt.check_unicode,
            help="Key of that server; default: that of --api-key, unless it is for --url.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    to_collection: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--to-collection",
            callback=opt.check_unicode,
            help="Name of the copy; default: that of the original.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    place: opt.PlaceChoice,
    json: opt.Json = False,
) -> None:
    """Copy an index, folder to server or back, and compare both; run again, an unfinished copy goes on."""
    if (to_store is None) == (to_url is None):
        raise typer.BadParameter("say where to: --to-store or --to-url, one of them")
    target = opt.PlaceChoice(
        store=to_store or place.store,
        url=to_url,
        api_key=to_api_key or (None if place.url else place.api_key),
        collection=to_collection or place.collection,
    )
    output = Output(as_json=json)
    with (
        open_existing(make_place(place), output) as (source, _),
        closing(make_place(target).open()) as copied,
        output.counting("Copying", 2 * source.count()) as tell,
    ):
        report = source.copy_to(copied, progress=tell)
    if report.rounded:
        output.note(
            f"the copy keeps the vectors of {report.rounded} points in fewer bits, and moved none of them by "
            f"more than {report.largest_rounding:.1e} of its length",
            style="yellow",
        )
    facts = {**asdict(report), "equal": report.is_equal}
    if json:
        output.json(facts)
    else:
        output.table({name.replace("_", " "): value for name, value in facts.items()})
