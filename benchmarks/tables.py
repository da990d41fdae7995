"""One Markdown table per result file; every figure comes out of the JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import backend_tables
from benchmarks import quality_tables as quality
from benchmarks import training_tables as training
from benchmarks.markdown import format_interval, format_ratio, make_table

Result = Mapping[str, Any]


def throughput(result: Result) -> str:
    results = result["results"]
    header = ["", "characters/s", "tokens/s", "× LlamaIndex", "× best peer", "padding", "of the peak"]
    rows = [
        [
            name,
            f"{entry['characters_per_s']:,}",
            f"{entry['tokens_per_s']:,}",
            format_ratio(entry["over_llamaindex"]),
            format_ratio(entry["over_best_peer"]),
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


def launches(result: Result) -> str:
    header = ["strategy", "way", "forward passes", "operators", "operators per chunk"]
    rows = [
        [
            strategy,
            way,
            f"{row['passes']:,}",
            f"{row['operators']:,}",
            f"{row['operators'] / row['chunks']:.0f}",
        ]
        for strategy, ways in result["results"].items()
        for way, row in ways.items()
    ]
    return make_table(header, rows)


def chat(result: Result) -> str:
    first, many = result["results"]["first_token"], result["results"]["many"]
    memory_mb = many["memory_mb"]
    header = ["", "questions", "errors", "in a wrong conversation", "first token, ms", "memory, MB"]
    alone = f"median {first['median_ms']:.0f}, worst {first['worst_ms']:.0f}"
    grown = f"{memory_mb[0]:,.0f} at first, {max(memory_mb):,.0f} at most, {memory_mb[-1]:,.0f} in the end"
    rows = [
        [f"one person, {result['results']['chunks']:,} chunks", first["questions"], "–", "–", alone, "–"],
        [
            f"{many['people']} people, {many['minutes']:g} minutes",
            f"{many['questions']:,}",
            many["errors"],
            many["answers_in_a_wrong_conversation"],
            "–",
            grown,
        ],
    ]
    return make_table(header, rows)


def ray_ingestion(result: Result) -> str:
    results = result["results"]
    header = [f"{results['chunks']:,} chunks", "chunks/s, once started", "× one worker", "seconds in all"]
    ratios = {"1": "1.00", "2": format_ratio(results["speed_up"])}
    rows = [
        [f"workers: {name}", row["chunks_per_s"], ratios[name], row["seconds"]]
        for name, row in results["rows"].items()
    ]
    return make_table(header, rows)


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
            format_interval(earlier["near_seams_difference"], 3, is_signed=True),
            f"{ours['chunk_vectors'][0]:.3f}",
            format_interval(earlier["chunk_vectors_difference"], 3, is_signed=True),
            format_interval(fixed_step["chunk_vectors_difference"], 3, is_signed=True),
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
            format_interval(row["ndcg_10_difference"], 3, is_signed=True),
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


def short_documents(result: Result) -> str:
    """Processor time a document, and the speed beside plain nodes."""
    rows = [
        [name, f"{entry['ms_per_document']:.1f}", f"{entry['speed']:.2f}"]
        for name, entry in result["results"].items()
    ]
    return make_table(["documents of one sentence", "ms each", "× plain nodes"], rows)


def leg_ingestion(result: Result) -> str:
    """Seconds to embed and store the same chunks, with what beside the vectors."""
    entry = result["results"]["ingestion"]
    rows = [
        [
            name,
            f"{row['seconds']:.2f}",
            format_ratio(row["x vectors alone"]),
            format_ratio(row["speed x peer"]) if "speed x peer" in row else "–",
        ]
        for name, row in entry["rows"].items()
    ]
    header = [f"{entry['chunks']} chunks", "seconds", "time × vectors alone", "speed × LlamaIndex"]
    return make_table(header, rows)


def leg_queries(result: Result) -> str:
    """Milliseconds of a question, encoder left out, and bytes of a chunk."""
    entry = result["results"]["queries"]
    rows = [[name, f"{ms:.2f}"] for name, ms in entry["ms"].items()]
    cross = result["results"]["cross-encoder of 50 candidates, ms"]
    rows.append(["a cross-encoder of MiniLM's size, 50 candidates (cost alone)", f"{cross:,.0f}"])
    kept = ", ".join(f"{name} {count:,}" for name, count in entry["bytes per chunk"].items())
    table = make_table([f"question, {entry['chunks']:,} chunks in a folder", "ms"], rows)
    return f"{table}\n\nBytes of a chunk on disk: {kept}."


def token_forms(result: Result) -> str:
    """nDCG@10 of hybrid search with late interaction, by what is kept of token states."""
    sets = result["results"]
    forms = [row["form"] for row in next(iter(sets.values()))["rows"]]
    rows = []
    for place, form in enumerate(forms):
        entries = [entry["rows"][place] for entry in sets.values()]
        values = [entry["nDCG@10"] for entry in entries]
        mean = f"{sum(values) / len(values):.2f}"
        rows.append([form, f"{entries[0]['bytes']:,}", *(f"{value:.1f}" for value in values), mean])
    return make_table(["numbers × tokens averaged", "bytes of 200 tokens", *sets, "mean"], rows)


TABLES: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "throughput": ("throughput", throughput),
    "memory": ("memory", memory),
    "operators": ("operators", operators),
    "negation": ("negation", quality.negation),
    "seams": ("seams", seams),
    "store": ("store", store),
    "quantised": ("quantised", quantised),
    "hybrid": ("hybrid", quality.hybrid),
    "hybrid_gains": ("hybrid", quality.hybrid_gains),
    "hybrid_arms": ("hybrid", quality.context_arms),
    "context": ("context", quality.context),
    "context_arms": ("context", quality.context_arms),
    "seeds": ("context", quality.seeds),
    "adaptation": ("adaptation", training.adaptation),
    "filter_ablation": ("filter_ablation", training.filter_ablation),
    "mteb_agreement": ("mteb_agreement", quality.mteb_agreement),
    "precision": ("precision", quality.precision),
    "short_documents": ("short_documents", short_documents),
    "leg_ingestion": ("legs", leg_ingestion),
    "leg_queries": ("legs", leg_queries),
    "token_forms": ("token_forms", token_forms),
    "late_interaction": ("late_interaction", quality.late_interaction),
    "query_adapter": ("query_adapter", training.query_adapter),
    "filters": ("filters", training.filters),
    "blends": ("blends", training.blends),
    "ablation": ("ablation", training.ablation),
    "split_layers": ("split_layers", training.split_layers),
    "migration": ("migration", quality.migration),
    "quotes": ("quotes", quality.quotes),
    "chat": ("chat", chat),
    "launches": ("launches", launches),
    "ray_ingestion": ("ray_ingestion", ray_ingestion),
    "backends": ("backends", backend_tables.backends),
    "passes": ("backends", backend_tables.passes),
}
"""Result file and renderer of each table."""


def _candidates(oversampling: float | None) -> str:
    return "not rescored" if oversampling is None else f"× {oversampling:g}, rescored"
