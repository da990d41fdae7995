"""Tables on the quality of retrieval; every figure comes out of the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


HYBRID_COLUMNS = {
    "isolated": "isolated",
    "title + isolated": "title + isolated",
    "bm25": "BM25",
    "title + bm25": "title + BM25",
    "dense default (two passes)": "dense default",
    "hybrid (one pass)": "hybrid",
    "hybrid + late interaction": "hybrid + late interaction",
}
"""Arms of the first table, and what they are called there."""


def hybrid(result: Result) -> str:
    """nDCG@10 in points on every set; the best of a set is bold, and hybrid's losses to others show."""
    rows, sums = [], dict.fromkeys(HYBRID_COLUMNS, 0.0)
    sets = result["results"]
    for name, entry in sets.items():
        scores = _hybrid_scores(entry)
        best = max(scores.values())
        shown = {arm: f"**{value}**" if value == best else f"{value}" for arm, value in scores.items()}
        rows.append([name, f"{entry['queries']:,}", *(shown.get(arm, "–") for arm in HYBRID_COLUMNS)])
        for arm in sums:
            # Without titles, an arm with titles is the one without.
            sums[arm] += scores[arm] if arm in scores else scores[arm.removeprefix("title + ")]
    means = [f"{total / len(sets):.1f}" for total in sums.values()]
    queries = sum(entry["queries"] for entry in sets.values())
    header = ["nDCG@10", "queries", *HYBRID_COLUMNS.values()]
    return make_table(header, [*rows, ["mean over sets", f"{queries:,}", *means]])


def _hybrid_scores(entry: Mapping[str, Any]) -> dict[str, float]:
    found = {row["arm"]: round(100 * row["nDCG@10"], 1) for row in entry["rows"]}
    return {arm: found[arm] for arm in HYBRID_COLUMNS if arm in found}


def hybrid_gains(result: Result) -> str:
    """What hybrid search gains and loses against each rival, and what late interaction adds to it."""
    searched, reordered = "hybrid (one pass)", "hybrid + late interaction"
    rivals = [arm for arm in HYBRID_COLUMNS if arm not in {searched, reordered}]
    header = [
        "nDCG@10",
        "hybrid",
        *(f"over {HYBRID_COLUMNS[arm]}" for arm in rivals),
        "late interaction adds",
    ]
    rows = []
    for name, entry in result["results"].items():
        found = {row["arm"]: row for row in entry["rows"]}
        losses = (_difference(found.get(arm), searched, is_reversed=True) for arm in rivals)
        rows.append(
            [name, f"{found[searched]['nDCG@10']:.3f}", *losses, _difference(found.get(reordered), searched)]
        )
    return make_table(header, rows)


def late_interaction(result: Result) -> str:
    """What late interaction adds to each first stage, by what is kept and how query tokens count."""
    sets = list(result["results"].values())
    rows = []
    for place, row in enumerate(sets[0]["rows"]):
        if row["form"] == "none":
            continue
        gains = [entry["rows"][place]["gain"] for entry in sets]
        size = sum(entry["vectors per chunk"][row["form"]] for entry in sets) / len(sets)
        rows.append(
            [
                row["stage"],
                row["form"],
                row["query"],
                f"{size:.0f}",
                format_interval(mean_gain(gains), 2, is_signed=True),
                *(f"{gain[0]:+.1f}" for gain in gains),
            ]
        )
    header = ["behind", "kept", "query tokens count", "vectors per chunk", "mean", *result["results"]]
    return make_table(header, rows)


def mean_gain(gains: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean and interval over independent sets: the root of the squares of their half-widths."""
    mean = sum(gain[0] for gain in gains) / len(gains)
    half = sum(((gain[2] - gain[1]) / 2) ** 2 for gain in gains) ** 0.5 / len(gains)
    return mean, mean - half, mean + half


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
    header = ["nDCG@10", "isolated", *(name.removeprefix("another seed: ") for name in names)]
    return make_table(header, rows)


def negation(result: Result) -> str:
    """The error rate next to the published one."""
    rate = [100 * value for value in result["results"]["error_rate"]]
    rows = [
        ["these triplets", result["n"], format_interval(rate, 1)],
        ["published, on others", "–", f"{100 * result['results']['published']:.0f}"],
    ]
    return make_table(["denial nearer than paraphrase", "triplets", "% of triplets"], rows)


def quotes(result: Result) -> str:
    """Share of questions whose quotes hold the answer, by set and by how sentences are chosen."""
    rows = []
    for name, entry in result["results"].items():
        for way, row in entry["rows"].items():
            held, gain = ([100 * value for value in row[key]] for key in ("held", "gain"))
            rows.append(
                [
                    f"{name}: {way}",
                    format_interval(held, 1),
                    format_interval(gain, 1, is_signed=True) if any(gain) else "–",
                    f"{100 * row['held_by_first'][0]:.1f}",
                    f"{row['characters']:.0f}",
                ]
            )
        whole = f"{100 * entry['passages_hold']:.1f}"
        rows.append([f"{name}: the three passages whole", whole, "–", "–", "–"])
    header = [
        "set: sentences by",
        "% held by one of three",
        "gain in points",
        "% held by the first",
        "characters",
    ]
    return make_table(header, rows)


def _difference(row: Mapping[str, Any] | None, baseline: str, *, is_reversed: bool = False) -> str:
    """The arm over the baseline, or the baseline over the arm."""
    values = (row or {}).get(f"nDCG@10 over {baseline}")
    if not values:
        return "–"
    if is_reversed:
        mean, low, high = (0.0 - value for value in values)
        values = [mean, high, low]
    return format_interval(values, 3, is_signed=True)


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


def migration(result: Result) -> str:
    """nDCG@10 of every way to ask, a row each, and the difference to the old encoder in points."""
    sets = result["results"]
    header = ["old → new encoder", "asked by", "learned from"]
    header += [part for name in sets for part in (f"{name}, nDCG@10", "points to the old")]
    rows = []
    pairs = dict.fromkeys(pair for entry in sets.values() for pair in entry["pairs"])
    for pair in pairs:
        of_sets = [entry["pairs"][pair] for entry in sets.values()]
        for ways in zip(*of_sets, strict=True):
            learned = " / ".join(f"{way['pairs']} chunks" for way in ways) if ways[0]["pairs"] else "–"
            figures = [
                part
                for way in ways
                for part in (f"{way['nDCG@10']:.3f}", format_interval(way["difference"], 1, is_signed=True))
            ]
            rows.append([pair, ways[0]["method"], learned, *figures])
    return make_table(header, rows)
