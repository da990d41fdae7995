"""The command `migrate`: a new encoder for an index, while the old vectors are searched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import check_alpha, make_model_options, make_place
from rag_embed.files.faults import describe

if TYPE_CHECKING:
    from rag_embed.indexes.migrating import Migrated


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """The new model."""

    to_model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to-model", help="The new model: the embedded one's name, a folder, or a hub id."),
    ] = None
    strategy: opt.StrategyOption = None
    alpha: opt.Alpha = None
    adapter: opt.AdapterOption = None
    server: opt.ServerOption = None
    context_server: opt.ContextServer = None
    engine: opt.EngineOption = None


@opt.spread
def migrate(
    *,
    target: TargetChoice,
    most: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--most", min=1, help="Embed no more documents than that in this run."),
    ] = None,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Delete the old vectors, once the new ones are searched.")
    ] = False,
    place: opt.PlaceChoice,
    json: opt.Json = False,
) -> None:
    """Embed an index anew with another model beside the old vectors, then switch. Run it again to go on."""
    if target.to_model is None and not drop_old:
        raise typer.BadParameter("name the new model with --to-model")
    wanted = opt.ModelChoice(
        model=target.to_model,
        strategy=target.strategy,
        alpha=target.alpha,
        adapter=target.adapter,
        server=target.server,
        context_server=target.context_server,
        engine=target.engine,
    )
    check_alpha(wanted)
    output = Output(as_json=json)
    from rag_embed.indexes.migrating import drop_former, migrate

    found = make_place(place)
    result: dict[str, object] = {}
    if target.to_model is not None:
        with ExitStack() as bars:
            done = migrate(
                found,
                make_model_options(wanted),
                most=most,
                begin=_watch(output, bars),
                on_failure=_tell(output),
            )
        result = _summarise(done, output)
    if drop_old and result.get("switched", True):
        result["dropped"] = drop_former(found)
        output.note(f"{result['dropped']:,} old chunks were deleted", style="green")
    if json:
        output.json(result)
    if not result.get("switched", True):
        raise typer.Exit(opt.ExitCode.PARTLY)


def _watch(output: Output, bars: ExitStack) -> Callable[[int], Callable[[str, int], None]]:
    def begin(chunks: int) -> Callable[[str, int], None]:
        bars.close()
        return bars.enter_context(output.bar("Embedding anew", chunks))

    return begin


def _tell(output: Output) -> Callable[[str, Exception], None]:
    def note(document_id: str, error: Exception) -> None:
        output.note(f"not embedded {document_id}: {describe(error)}", style="yellow")

    return note


def _summarise(done: Migrated, output: Output) -> dict[str, object]:
    """Say how far it is, and give it as JSON holds it."""
    embedded = sum(len(report.embedded) for report in done.passes)
    chunks = sum(report.chunks for report in done.passes)
    left, failed = (done.passes[-1].left, done.passes[-1].failed) if done.passes else ((), ())
    output.note(
        f"{embedded} documents ({chunks:,} chunks) were embedded by {done.fingerprint}", style="green"
    )
    if done.is_switched:
        output.note(f"the index is collection {done.target!r} now", style="green")
    else:
        output.note(
            f"{len(left)} documents are left and {len(failed)} failed; the old vectors go on being searched",
            style="yellow",
        )
    return {
        "from": done.source,
        "to": done.target,
        "fingerprint": done.fingerprint,
        "embedded": embedded,
        "chunks": chunks,
        "left": len(left),
        "failed": list(failed),
        "switched": done.is_switched,
    }
