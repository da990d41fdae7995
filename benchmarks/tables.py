"""One Markdown table per result file; every figure comes out of the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def make_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """First column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def throughput(result: Result) -> str:
    results = result["results"]
    header = ["", "characters/s", "tokens/s", "× LlamaIndex", "× best peer", "padding", "of the peak"]
    rows = [
        [
            name,
            f"{entry['characters_per_s']:,}",
            f"{entry['tokens_per_s']:,}",
            _ratio(entry["over_llamaindex"]),
            _ratio(entry["over_best_peer"]),
            f"{entry['padding_share']:.0%}",
            f"{entry['peak_share']:.0%}",
        ]
        for name, entry in results["contestants"].items()
    ]
    lengths = results["chunk_tokens"]
    return (
        f"{make_table(header, rows)}\n\n"
        f"{results['chunk_count']:,} chunks of {lengths['min']:.0f} to {lengths['max']:.0f} tokens, "
        f"half of them of {lengths['quartile_1']:.0f} to {lengths['quartile_3']:.0f}; "
        f"{results['content_tokens']:,} tokens in all. "
        f"LlamaIndex is {results['llamaindex']}, the best peer that embeds chunks alone is "
        f"{results['best_peer']}; the peak is {results['peak_gflops']} GFLOP/s."
    )


def negation(result: Result) -> str:
    """The error rate next to the published one."""
    rate = [100 * value for value in result["results"]["error_rate"]]
    rows = [
        ["these triplets", result["n"], _interval(rate, 1)],
        ["published, on others", "–", f"{100 * result['results']['published']:.0f}"],
    ]
    return make_table(["denial nearer than paraphrase", "triplets", "% of triplets"], rows)


def operators(result: Result) -> str:
    shares = result["results"]["shares"]
    names = sorted(shares["isolated"], key=lambda name: -shares["isolated"][name])
    return make_table(
        ["share of the time", *shares],
        [[name, *(f"{shares[arm].get(name, 0):.0%}" for arm in shares)] for name in names],
    )


def memory(result: Result) -> str:
    results = result["results"]
    lengths, reference = results["lengths"], results["reference_length"]
    header = ["peak MB", *(f"{n:,} tokens" for n in lengths), f"{lengths[-1]:,} over {reference:,} tokens"]
    rows = []
    for name, entry in results["contestants"].items():
        peaks = {length: entry[str(length)]["peak_mb"] for length in lengths}
        growth = peaks[lengths[-1]] - peaks[reference]
        rows.append([name, *(f"{peak:,.0f}" for peak in peaks.values()), f"{growth:+,.0f}"])
    return make_table(header, rows)


def seams(result: Result) -> str:
    """Our cosines, a row per layout, and how much nearer the other arms come.

    The fixed step has its seams elsewhere, so near ours it is not compared.
    """
    layouts: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for row in result["results"]["rows"]:
        layout = (row["numbering"], row["window_tokens"], row["overlap_tokens"])
        layouts.setdefault(layout, []).append(row)
    header = ["positions of", "window", "overlap", "near seams: ours", "earlier window"]
    header += ["chunk vectors: ours", "earlier window", "fixed step"]
    rows = [
        [
            *layout,
            f"{ours['near_seams'][0]:.3f}",
            _interval(earlier["near_seams_difference"], 3, is_signed=True),
            f"{ours['chunk_vectors'][0]:.3f}",
            _interval(earlier["chunk_vectors_difference"], 3, is_signed=True),
            _interval(fixed_step["chunk_vectors_difference"], 3, is_signed=True),
        ]
        for layout, (ours, earlier, fixed_step) in layouts.items()
    ]
    return make_table(header, rows)


def store(result: Result) -> str:
    header = ["", "ingestion s", "query ms", "filtered query ms", "exactly the nearest", "filtered"]
    return make_table(
        header,
        [
            [
                name,
                entry["ingest_s"],
                entry["query"]["median_ms"],
                entry["filtered_query"]["median_ms"],
                f"{entry['query']['exact_share']:.0%}",
                f"{entry['filtered_query']['exact_share']:.0%}",
            ]
            for name, entry in result["results"].items()
        ],
    )


def quantised(result: Result) -> str:
    """Quality and bytes of every storage; the first row is exact search over float32."""
    whole = result["results"]["rows"][0]["searched_bytes"]
    rows = [
        [
            row["storage"],
            "–" if row["storage"].startswith("float") else _candidates(row["oversampling"]),
            f"{row['searched_bytes']:,.0f} ({row['searched_bytes'] / whole:.1%})",
            f"{row['disk_bytes']:,.0f}",
            f"{row['ndcg_10']:.3f}",
            _interval(row["ndcg_10_difference"], 3, is_signed=True),
            f"{row['nearest_found']:.1%}",
        ]
        for row in result["results"]["rows"]
    ]
    header = [
        "searched",
        "candidates",
        "bytes searched",
        "bytes on disk",
        "nDCG@10",
        "difference",
        "of the nearest 10",
    ]
    return make_table(header, rows)


def context(result: Result) -> str:
    """nDCG@10 of isolated chunks on every set, and what others add; the default also over titles."""
    arms = ["title + isolated", "late, untrained", "adapter alone", "default"]
    header = ["nDCG@10", "queries", "isolated", *arms, "default over title + isolated"]
    rows = []
    for name, entry in result["results"].items():
        found = {row["arm"]: row for row in entry["rows"]}
        gains = [_difference(found.get(arm), "isolated") for arm in arms]
        over_title = _difference(found["default"], "title + isolated")
        isolated = f"{found['isolated']['nDCG@10']:.3f}"
        rows.append([name, f"{entry['queries']:,}", isolated, *gains, over_title])
    return make_table(header, rows)


def context_arms(result: Result) -> str:
    """Both measures of every arm on every set."""
    sets = result["results"]
    arms = dict.fromkeys(row["arm"] for entry in sets.values() for row in entry["rows"])
    rows = []
    for arm in arms:
        found = {name: next((r for r in e["rows"] if r["arm"] == arm), None) for name, e in sets.items()}
        rows.append([arm, *(f"{r['nDCG@10']:.3f} / {r['R@10']:.3f}" if r else "–" for r in found.values())])
    return make_table(["nDCG@10 / R@10", *sets], rows)


def seeds(result: Result) -> str:
    """nDCG@10 of adapters from several seeds of one recipe."""
    sets = result["results"]
    names = [
        row["arm"]
        for row in next(iter(sets.values()))["rows"]
        if row["arm"] == "default" or "seed" in row["arm"]
    ]
    rows = []
    for name, entry in sets.items():
        found = {row["arm"]: row for row in entry["rows"]}
        gains = [_difference(found[arm], "isolated") for arm in names]
        rows.append([name, f"{found['isolated']['nDCG@10']:.3f}", *gains])
    return make_table(["nDCG@10", "isolated", "default (seed 0)", *names[1:]], rows)


def filters(result: Result) -> str:
    """Shares of right and wrong pairs that the filters keep."""
    header = ["kept", "questions", "right pairs, consistency", "wrong pairs, consistency", "right, language"]
    rows = [
        [name, f"{entry['questions']:,.0f}", *(f"{entry[key]:.1%}" for key in list(entry)[1:])]
        for name, entry in result["results"].items()
    ]
    return make_table(header, rows)


def adaptation(result: Result) -> str:
    """What the command advised, and what people's queries say."""
    header = ["", "documents", "held out", "by proxies", "advice", "queries", "isolated", "before", "gain"]
    rows = [
        [
            name,
            entry["documents"],
            entry["held_out"],
            _interval(entry["proxy_gain"], 3, is_signed=True),
            "use" if entry["is_recommended"] else "keep",
            entry["queries"],
            f"{entry['means']['isolated']:.3f}",
            f"{entry['means']['before']:.3f}",
            _interval(entry["gain"], 3, is_signed=True),
        ]
        for name, entry in result["results"].items()
    ]
    return make_table(header, rows)


def retrieval(result: Result) -> str:
    """nDCG@10 of isolated chunks on every set, and what other strategies add."""
    arms = ["late", "blend 0.5", "title + isolated", "title + late", "title + blend 0.5"]
    rows = [
        [name, f"{entry['rows'][0]['ndcg_10']:.3f}", *(_gain(entry, arm) for arm in arms)]
        for name, entry in result["results"].items()
    ]
    return make_table(["nDCG@10", "isolated", *arms], rows)


def rerank(result: Result) -> str:
    """nDCG@10 of the blend on every set, and what rerankers add."""
    arms = [
        "feedback 3 x 0.3",
        "E2Rank prompt, weight 0.5",
        "query in context, weight 0.5",
        "query in context, weight 1.0",
    ]
    rows = []
    for name, entry in result["results"].items():
        first = next(row["baseline"] for row in reversed(entry["rows"]))
        score = next(row["ndcg_10"] for row in entry["rows"] if row["arm"] == first)
        rows.append([name, f"{score:.3f} ({first})", *(_gain(entry, f"{first} → {arm}") for arm in arms)])
    return make_table(["nDCG@10", "first stage", *arms], rows)


def retrieval_arms(result: Result) -> str:
    """nDCG@10 of every arm on every set; arrows where the interval of the difference leaves out zero."""
    sets = result["results"]
    cells = {
        (row["arm"].replace("title + blend 0.5 →", "blend 0.5 →"), name): _marked(row)
        for name, entry in sets.items()
        for row in entry["rows"]
    }
    arms = dict.fromkeys(arm for arm, _ in cells)
    return make_table(["nDCG@10", *sets], [[arm, *(cells.get((arm, n), "–") for n in sets)] for arm in arms])


def retrieval_details(result: Result) -> str:
    """Both measures with their intervals, a table per set."""
    parts = []
    for name, entry in result["results"].items():
        rows = [
            [
                row["arm"],
                row["n"],
                f"{row['ndcg_10']:.3f}",
                _interval(row["ndcg_10_difference"], 3, is_signed=True),
                f"{row['recall_10']:.3f}",
                _interval(row["recall_10_difference"], 3, is_signed=True),
            ]
            for row in entry["rows"]
        ]
        scope = "ranked inside the right document" if entry["is_within_document"] else "all chunks compete"
        parts.append(
            f"### {name}\n\n{entry['documents']} documents, {entry['chunks']:,} chunks, "
            f"{entry['queries']:,} queries; {scope}.\n\n"
            + make_table(["", "n", "nDCG@10", "difference", "Recall@10", "difference"], rows)
        )
    return "\n\n".join(parts)


TABLES: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "throughput": ("throughput", throughput),
    "memory": ("memory", memory),
    "operators": ("operators", operators),
    "negation": ("negation", negation),
    "seams": ("seams", seams),
    "store": ("store", store),
    "quantised": ("quantised", quantised),
    "context": ("context", context),
    "context_arms": ("context", context_arms),
    "seeds": ("context", seeds),
    "adaptation": ("adaptation", adaptation),
    "filters": ("filters", filters),
    "retrieval": ("retrieval", retrieval),
    "rerank": ("retrieval", rerank),
    "retrieval_arms": ("retrieval", retrieval_arms),
    "retrieval_details": ("retrieval", retrieval_details),
}
"""Result file and renderer of each table."""


def _candidates(oversampling: float | None) -> str:
    return "not rescored" if oversampling is None else f"× {oversampling:g}, rescored"


def _difference(row: Mapping[str, Any] | None, baseline: str) -> str:
    values = (row or {}).get(f"nDCG@10 over {baseline}")
    return _interval(values, 3, is_signed=True) if values else "–"


def _gain(entry: Mapping[str, Any], arm: str) -> str:
    row = next((row for row in entry["rows"] if row["arm"] == arm), None)
    return _interval(row["ndcg_10_difference"], 3, is_signed=True) if row else "–"


def _marked(row: Mapping[str, Any]) -> str:
    _, low, high = row["ndcg_10_difference"]
    mark = " ▲" if low > 0 else " ▼" if high < 0 else ""
    return f"{row['ndcg_10']:.3f}{mark}"


def _ratio(values: Sequence[float]) -> str:
    middle, low, high = values
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _interval(values: Sequence[float], digits: int, *, is_signed: bool = False) -> str:
    sign = "+" if is_signed else ""
    middle, low, high = (f"{value:{sign}.{digits}f}" for value in values)
    return f"{middle} [{low}, {high}]"
