"""Tables on what is trained and how halves are mixed; every figure comes out of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import format_interval, make_table
from benchmarks.quality_tables import mean_gain

Result = Mapping[str, Any]


def query_adapter(result: Result) -> str:
    """What a trained question side adds to plain late interaction; "mean" is of the sets not trained on."""
    sets = result["results"]
    rows = []
    for place, row in enumerate(next(iter(sets.values()))["rows"]):
        gains = {name: entry["rows"][place]["gain"] for name, entry in sets.items()}
        if row["questions by"] == "plain":
            continue
        others = [gain for name, gain in gains.items() if not sets[name]["is_trained_on"]]
        mean = format_interval(mean_gain(others), 2, is_signed=True)
        cells = [f"{gain[0]:+.1f}" for gain in gains.values()]
        rows.append([row["stage"], f"{row['weight']:g}", row["questions by"], mean, *cells])
    names = [f"{name} *" if entry["is_trained_on"] else name for name, entry in sets.items()]
    return make_table(["behind", "weight", "questions by", "mean", *names], rows)


def split_layers(result: Result) -> str:
    """nDCG@10 in points of chunks that are read apart up to a layer and together from there on."""
    sets = result["results"]
    arms = [row["arm"] for row in next(iter(sets.values()))["rows"]]
    rows = []
    for arm in arms:
        found = [100 * next(row["nDCG@10"] for row in e["rows"] if row["arm"] == arm) for e in sets.values()]
        rows.append([arm, *(f"{value:.1f}" for value in found), f"{sum(found) / len(found):.1f}"])
    return make_table(["nDCG@10", *sets, "mean"], rows)


def blends(result: Result) -> str:
    """nDCG@10 in points of mixtures, their mean, and the largest loss against isolated chunks."""
    sets = result["results"]
    arms = [row["arm"] for row in next(iter(sets.values()))["rows"]]
    found = {
        arm: [100 * next(row["nDCG@10"] for row in e["rows"] if row["arm"] == arm) for e in sets.values()]
        for arm in arms
    }
    rows = []
    for arm, values in found.items():
        worst = min(value - base for value, base in zip(values, found["isolated"], strict=True))
        mean = sum(values) / len(values)
        rows.append([arm, *(f"{value:.1f}" for value in values), f"{mean:.1f}", f"{worst:+.1f}"])
    return make_table(["nDCG@10", *sets, "mean", "worst against isolated"], rows)


def ablation(result: Result) -> str:
    """nDCG@10 in points by adapters trained without a source or a term, and the mean gain over "all"."""
    sets = result["results"]
    rows = []
    for arm in (row["arm"] for row in next(iter(sets.values()))["rows"]):
        found = [next(row for row in entry["rows"] if row["arm"] == arm) for entry in sets.values()]
        values = [100 * row["nDCG@10"] for row in found]
        gains = [[100 * x for x in row["nDCG@10 over all"]] for row in found if "nDCG@10 over all" in row]
        gain = format_interval(mean_gain(gains), 1, is_signed=True) if gains else "–"
        mean = f"{sum(values) / len(values):.1f}"
        rows.append([arm, *(f"{value:.1f}" for value in values), mean, gain])
    return make_table(["nDCG@10", *sets, "mean", "over all"], rows)


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
            "use" if entry["proxy_gain"][1] > 0 else "keep",
            entry["queries"],
            f"{entry['means']['isolated']:.3f}",
            f"{entry['means']['before']:.3f}",
            format_interval(entry["gain"], 3, is_signed=True),
        ]
        for name, entry in result["results"].items()
    ]
    return make_table(header, rows)
