"""Tables on the quality of retrieval; every figure comes out of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import format_interval, make_table

Result = Mapping[str, Any]


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


def filter_ablation(result: Result) -> str:
    """Adapters trained on right, partly wrong and filtered pairs."""
    results = result["results"]
    sets = [name for name, entry in results.items() if isinstance(entry, dict)]
    rows = []
    for arm in results[sets[0]]["rows"]:
        cells = []
        for name in sets:
            row = results[name]["rows"][arm]
            gain = row["over a third wrong"]
            cells += [f"{row['nDCG@10']:.3f}", format_interval(gain, 3, is_signed=True) if gain else "–"]
        rows.append([arm, *cells])
    header = ["trained on", *(cell for name in sets for cell in (name, "over a third wrong"))]
    kept = f"The filter kept {results['kept']} of {results['kept'] + results['dropped']} pairs."
    return f"{make_table(header, rows)}\n\n{kept}"


def adaptation(result: Result) -> str:
    """What the command advised, and what people's queries say."""
    header = ["", "documents", "held out", "by proxies", "advice", "queries", "isolated", "before", "gain"]
    rows = [
        [
            name,
            entry["documents"],
            entry["held_out"],
            format_interval(entry["proxy_gain"], 3, is_signed=True),
            "use" if entry["is_recommended"] else "keep",
            entry["queries"],
            f"{entry['means']['isolated']:.3f}",
            f"{entry['means']['before']:.3f}",
            format_interval(entry["gain"], 3, is_signed=True),
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
                format_interval(row["ndcg_10_difference"], 3, is_signed=True),
                f"{row['recall_10']:.3f}",
                format_interval(row["recall_10_difference"], 3, is_signed=True),
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


def negation(result: Result) -> str:
    """The error rate next to the published one."""
    rate = [100 * value for value in result["results"]["error_rate"]]
    rows = [
        ["these triplets", result["n"], format_interval(rate, 1)],
        ["published, on others", "–", f"{100 * result['results']['published']:.0f}"],
    ]
    return make_table(["denial nearer than paraphrase", "triplets", "% of triplets"], rows)


def _difference(row: Mapping[str, Any] | None, baseline: str) -> str:
    values = (row or {}).get(f"nDCG@10 over {baseline}")
    return format_interval(values, 3, is_signed=True) if values else "–"


def _gain(entry: Mapping[str, Any], arm: str) -> str:
    row = next((row for row in entry["rows"] if row["arm"] == arm), None)
    return format_interval(row["ndcg_10_difference"], 3, is_signed=True) if row else "–"


def _marked(row: Mapping[str, Any]) -> str:
    _, low, high = row["ndcg_10_difference"]
    mark = " ▲" if low > 0 else " ▼" if high < 0 else ""
    return f"{row['ndcg_10']:.3f}{mark}"


def mteb_agreement(result: Result) -> str:
    """The same vectors by our harness and by mteb's evaluator."""
    found = result["results"]
    row = [found["arm"], found["documents"], found["queries"], f"{found['ours']:.3f}", f"{found['mteb']:.3f}"]
    return make_table(["scifact", "documents", "queries", "nDCG@10, ours", "nDCG@10, mteb"], [row])


def precision(result: Result) -> str:
    """Bfloat16 against float32: what retrieval loses, how far vectors turn, and how much faster it is."""
    pairs: list[str] = []
    rows = []
    for name, entry in result["results"].items():
        for arm, found in entry["arms"].items():
            pairs = list(found["differences"])
            rows.append(
                [
                    f"{name}, {arm}",
                    entry["queries"],
                    f"{found['ndcg_10']:.3f}",
                    *(format_interval(found["differences"][pair], 4, is_signed=True) for pair in pairs),
                    f"{found['cosine'][1]:.5f}",
                    f"{found['largest_difference']:.1e}",
                    f"{found['speed_up']:.1f} ×",
                ]
            )
    header = ["nDCG@10", "queries", "float32", *pairs, "least cosine", "largest difference", "speed"]
    return make_table(header, rows)
