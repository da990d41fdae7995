"""The commands that ask: `search`, `chat` and `info`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output
from rag_embed.cli.preparing import make_place, open_existing, open_searcher, read_questions
from rag_embed.cli.records import passages_as_json, turn_as_json
from rag_embed.cli.serving import serve_page
from rag_embed.errors import InputError


@opt.spread
def search(
    *,
    query: opt.Query,
    top_k: opt.TopK = 5,
    finding: opt.SearchChoice,
    place: opt.PlaceChoice,
    embedding: opt.ModelChoice,
    json: opt.Json = False,
) -> None:
    """Show the passages nearest to a question, with score, document and exact characters."""
    output = Output(as_json=json)
    with open_searcher(place, embedding, finding, top_k=top_k, output=output) as searcher:
        found = searcher.search(query)
    if json:
        result = {
            "query": query,
            "rerank": finding.rerank.value,
            "passages": passages_as_json(found.passages),
        }
        output.json(result if found.unranked is None else {**result, "unranked": found.unranked})
    else:
        output.passages(found.passages)
    if found.unranked is not None:
        output.note(found.unranked, style="yellow")
    if not found.passages:
        output.note("nothing found")
        raise typer.Exit(opt.ExitCode.EMPTY)


@opt.spread
def chat(
    *,
    llm: opt.Llms = None,
    llm_arg: opt.LlmArguments = None,
    web: Annotated[bool, typer.Option("--web", help="Serve a page to talk in, in the browser.")] = False,
    history: opt.History = None,
    listening: opt.ListenChoice,
    top_k: opt.TopK = 8,
    finding: opt.SearchChoice,
    place: opt.PlaceChoice,
    embedding: opt.ModelChoice,
    json: opt.Json = False,
) -> None:
    """Talk to an index; questions come from standard input. /reset forgets what was said, /quit ends.

    With --web a page in the browser does the same, and takes files.
    """
    from rag_embed.chat.conversation import Conversation, converse
    from rag_embed.chat.llms import load_llms

    output = Output(as_json=json)
    try:
        llms = load_llms(llm or [], llm_arg or [])
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    if web:
        serve_page(
            llms,
            listening=listening,
            history=history,
            top_k=top_k,
            finding=finding,
            place=place,
            embedding=embedding,
        )
        return
    if len(llms) > 1:
        raise typer.BadParameter(f"--llm was given {len(llms)} times; several are to choose from with --web")
    language_model = next(iter(llms.values()), None)
    failures = 0
    with open_searcher(place, embedding, finding, top_k=top_k, output=output) as searcher:
        conversation = Conversation(searcher, language_model)
        # What an LLM prints goes elsewhere; a person's terminal stays as it is, for the sake of line editing.
        with output.reserved() if json else nullcontext():
            for turn in converse(conversation, read_questions(output)):
                if json:
                    output.json(turn_as_json(turn))
                else:
                    output.turn(turn)
                failures += turn.error is not None
    if failures:
        raise typer.Exit(opt.ExitCode.FAILED)


@opt.spread
def info(
    *,
    place: opt.PlaceChoice,
    check: Annotated[
        bool, typer.Option("--check", help="Read everything, and name the documents to index again.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Show what a collection holds and how its vectors were made."""
    from rag_embed.cli.describing import describe_index

    output = Output(as_json=json)
    found = make_place(place)
    with open_existing(found, output) as (chunk_store, schema):
        facts = describe_index(found, chunk_store, schema)
        report = chunk_store.check() if check else None
    if report is not None:
        facts |= {"faults": list(report.faults), "index again": list(report.documents)}
    if json:
        output.json(facts)
    else:
        output.table(facts)
    if report is not None and not report.is_sound:
        output.error(
            f"{len(report.faults)} fault(s); {len(report.documents)} document(s) to index again. "
            "`rag-embed index --rebuild` makes everything anew"
        )
        raise typer.Exit(opt.ExitCode.FAILED)
    if not facts["count"]:
        raise typer.Exit(opt.ExitCode.EMPTY)
