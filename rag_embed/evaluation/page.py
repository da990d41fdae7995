"""The report as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from rag_embed.errors import MissingExtraError
from rag_embed.evaluation.arms import ISOLATED, TITLED
from rag_embed.evaluation.figures import (
    WIDTH,
    describe,
    plot_intervals,
    plot_queries,
    plot_slices,
    sign_of,
)
from rag_embed.evaluation.metrics import MEASURES
from rag_embed.evaluation.results import Evaluation

_HEADINGS = {
    "use": "Read chunks in their documents",
    "simpler": "Something simpler is enough",
    "avoid": "Nothing gains here: keep to the simplest",
    "undecided": "Undecided",
}


def render_page(evaluation: Evaluation) -> str:
    """Render the report.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError(
            "the HTML report needs jinja2, which is not installed; run pip install 'rag-embed[eval]'"
        ) from error
    environment = Environment(
        loader=PackageLoader("rag_embed.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = environment.get_template("page.html").render(
        evaluation=evaluation,
        heading=_HEADINGS[evaluation.verdict.decision],
        measures=MEASURES,
        rows=[_make_row(evaluation, number) for number in range(len(evaluation.results))],
        kinds=sorted(set(evaluation.kinds)),
        intervals=plot_intervals(evaluation),
        slices=plot_slices(evaluation),
        queries=plot_queries(evaluation),
        width=WIDTH,
        has_titles=evaluation.result(TITLED) is not None,
        has_both=len(evaluation.sliced) > 1,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return page


def _make_row(evaluation: Evaluation, number: int) -> dict[str, object]:
    """One line of the table."""
    result = evaluation.results[number]
    over_isolated = evaluation.difference(result, ISOLATED)
    over_titled = evaluation.difference(result, TITLED)
    cost = evaluation.cost(result)
    return {
        "arm": result.arm,
        "measures": [f"{100 * evaluation.mean(result, measure):.1f}" for measure in MEASURES],
        "over_isolated": describe(over_isolated),
        "sign": "none" if over_isolated is None else sign_of(over_isolated),
        "over_titled": describe(over_titled),
        "title_sign": "none" if over_titled is None else sign_of(over_titled),
        "detectable": f"{100 * over_isolated.detectable:.1f}"
        if over_isolated is not None and math.isfinite(over_isolated.detectable)
        else "–",
        "inside": f"{100 * evaluation.mean(result, MEASURES[0], 'document'):.1f}"
        if "document" in evaluation.sliced
        else "–",
        "costs": []
        if cost is None
        else [f"{cost.bytes_per_chunk:,.0f}", f"{cost.query_ms:.2f}", f"{cost.ingestion_s:,.2f}"],
        "kinds": [
            describe(evaluation.difference(result, ISOLATED, kind=kind))
            for kind in sorted(set(evaluation.kinds))
        ],
    }
