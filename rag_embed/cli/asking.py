"""The commands that ask: `search`, `chat` and `info`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Optional

import typer

from rag_embed.cli import options as opt
from rag_embed.cli.output import Output, passages_as_json, turn_as_json
from rag_embed.cli.preparing import (
    make_model_options,
    make_place,
    open_existing,
    open_searcher,
    read_questions,
)
from rag_embed.errors import InputError


def search(
    *,
    query: opt.Query,
    top_k: opt.TopK = 5,
    candidates: opt.Candidates = 50,
    rerank: opt.RerankOption = opt.Rerank.LISTWISE,
    filters: opt.Filter = None,
    store: opt.Store = opt.DEFAULT_STORE,
    url: opt.Url = None,
    api_key: opt.ApiKey = None,
    collection: opt.Collection = opt.DEFAULT_COLLECTION,
    model: opt.Model = None,
    strategy: opt.StrategyOption = None,
    alpha: opt.Alpha = None,
    json: opt.Json = False,
) -> None:
    """Show the passages nearest to a question, with score, document and exact characters."""
    output = Output(as_json=json)
    place = make_place(store, url, api_key, collection)
    chosen = {"top_k": top_k, "candidates": candidates, "rerank": rerank.value}
    with open_searcher(
        place, make_model_options(model, strategy, alpha), filters, output, **chosen
    ) as searcher:
        passages = searcher.search(query)
    if json:
        output.json({"query": query, "rerank": rerank.value, "passages": passages_as_json(passages)})
    else:
        output.passages(passages)
    if not passages:
        output.note("nothing found")
        raise typer.Exit(opt.ExitCode.EMPTY)


def chat(
    *,
    llm: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--llm", metavar="MODULE:CLASS", help="An LLM of LlamaIndex. Without one, quotes answer."
        ),
    ] = None,
    llm_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--llm-arg", metavar="KEY=VALUE", help="Argument of the LLM. Repeatable."),
    ] = None,
    top_k: opt.TopK = 8,
    candidates: opt.Candidates = 50,
    rerank: opt.RerankOption = opt.Rerank.LISTWISE,
    filters: opt.Filter = None,
    store: opt.Store = opt.DEFAULT_STORE,
    url: opt.Url = None,
    api_key: opt.ApiKey = None,
    collection: opt.Collection = opt.DEFAULT_COLLECTION,
    model: opt.Model = None,
    strategy: opt.StrategyOption = None,
    alpha: opt.Alpha = None,
    json: opt.Json = False,
) -> None:
    """Talk to an index; questions come from standard input. /reset forgets what was said, /quit ends."""
    from rag_embed.cli.chatting import Conversation, converse, load_llm

    output = Output(as_json=json)
    try:
        language_model = load_llm(llm, llm_arg or []) if llm else None
    except InputError as error:
        raise typer.BadParameter(str(error)) from error
    place = make_place(store, url, api_key, collection)
    chosen = {"top_k": top_k, "candidates": candidates, "rerank": rerank.value}
    failures = 0
    with open_searcher(
        place, make_model_options(model, strategy, alpha), filters, output, **chosen
    ) as searcher:
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


def info(
    *,
    store: opt.Store = opt.DEFAULT_STORE,
    url: opt.Url = None,
    api_key: opt.ApiKey = None,
    collection: opt.Collection = opt.DEFAULT_COLLECTION,
    json: opt.Json = False,
) -> None:
    """Show what a collection holds and how its vectors were made."""
    output = Output(as_json=json)
    place = make_place(store, url, api_key, collection)
    with open_existing(place, output) as (chunk_store, schema):
        facts = {
            "collection": schema.collection_name,
            "engine": f"Qdrant server {place.url}" if place.url else f"embedded Qdrant in {place.folder}",
            "count": chunk_store.count(),
            "dim": schema.dim,
            "distance": schema.distance.value,
            "fingerprint": schema.fingerprint,
            "model": (schema.fingerprint or "").rsplit("@", 1)[0] or None,
        }
    if json:
        output.json(facts)
    else:
        output.table(facts)
    if not facts["count"]:
        raise typer.Exit(opt.ExitCode.EMPTY)
