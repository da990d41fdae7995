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


def operators(result: Result) -> str:
    shares = result["results"]["shares"]
    names = sorted(shares["isolated"], key=lambda name: -shares["isolated"][name])
    return make_table(
        ["share of the time", *shares],
        [[name, *(f"{shares[arm].get(name, 0):.0%}" for arm in shares)] for name in names],
    )


def memory(result: Result) -> str:
    results = result["results"]
    header = ["peak MB", *(f"{length:,} tokens" for length in results["lengths"])]
    return make_table(
        header,
        [
            [name, *(f"{entry[str(length)]['peak_mb']:,.0f}" for length in results["lengths"])]
            for name, entry in results["contestants"].items()
        ],
    )


def seams(result: Result) -> str:
    results = result["results"]
    rows = [
        [
            row["arm"],
            row["numbering"],
            row["window_tokens"],
            row["overlap_tokens"],
            *(_interval(row[name], 4) for name in ("all_tokens", "near_seams", "chunk_vectors")),
        ]
        for row in results["rows"]
    ]
    return make_table(
        [
            "state taken from",
            "positions of",
            "window",
            "overlap",
            "all tokens",
            "near seams",
            "chunk vectors",
        ],
        rows,
    )


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
    "seams": ("seams", seams),
    "store": ("store", store),
    "quantised": ("quantised", quantised),
    "retrieval": ("retrieval", retrieval),
    "rerank": ("retrieval", rerank),
    "retrieval_arms": ("retrieval", retrieval_arms),
    "retrieval_details": ("retrieval", retrieval_details),
}
"""Result file and renderer of each table."""


def _candidates(oversampling: float | None) -> str:
    return "not rescored" if oversampling is None else f"× {oversampling:g}, rescored"


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
