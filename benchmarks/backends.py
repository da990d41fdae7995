"""The encoder in other libraries and in int8: speed, angles and nDCG@10; and our own passes by size."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.bootstrap import mean_interval
from benchmarks.corpus import cut_documents, read_documents, read_text
from benchmarks.evalsets import find_sets, load_set
from benchmarks.exports import MAKERS, OURS, THREADS, Read, TokenIds
from benchmarks.race import Race
from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding, Encoder
from rag_embed.evaluation import EvalSet
from rag_embed.evaluation.metrics import measure
from rag_embed.evaluation.ranking import rank

SETS = {"squad_half": 4, "cuad_small": 4}
"""Sets, and how many of their documents."""
MEASURE = "nDCG@10"
WINDOW_TOKENS, WINDOW_COUNT = 384, 16
STRETCH_TOKENS = 64
"""Tokens of a chunk inside a window."""
PASS_TOKENS = (1024, 4096)
"""Positions of a pass; every library gets the better of them, after a heat."""
WINDOWS_PER_PASS = (1, 2, 4, 8)
SLOWEST = 0.1
"""What has less than this share of our speed in a trial is not raced: it would take an hour."""
LIBRARIES = ("onnxruntime", "ctranslate2", "torchao")

Vectors = Float[np.ndarray, "texts dim"]


def tokenize(encoder: Encoder, texts: Sequence[str]) -> list[TokenIds]:
    """Whole sequences, special tokens included; too long a text ends early, for all alike."""
    return [
        np.concatenate([encoder.prefix_ids, tokens.ids[: encoder.capacity], encoder.suffix_ids])
        for tokens in encoder.tokenize_all(texts)
    ]


def embed(read: Read, texts: Sequence[TokenIds], pass_tokens: int) -> Vectors:
    """Unit vectors: the mean of each text's states, special tokens included, as the model was trained."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    states = read([texts[index] for index in order], pass_tokens)
    vectors = np.empty((len(texts), states[0].shape[1]), dtype=np.float32)
    vectors[order] = [each.mean(axis=0) for each in states]
    return to_units(vectors)


def cut_windows(encoder: Encoder, window_tokens: int, window_count: int) -> list[TokenIds]:
    """Windows of one length, special tokens included, one behind the other out of one text."""
    inner = window_tokens - len(encoder.prefix_ids) - len(encoder.suffix_ids)
    ids = encoder.tokenize(read_text(window_count * window_tokens * 8)).ids
    starts = range(0, window_count * inner, inner)
    return [np.concatenate([encoder.prefix_ids, ids[i : i + inner], encoder.suffix_ids]) for i in starts]


def embed_in_windows(read: Read, windows: Sequence[TokenIds]) -> Vectors:
    """Unit vectors of stretches of every window, as late chunking makes chunk vectors."""
    stretches = [
        states[start : start + STRETCH_TOKENS].mean(axis=0)
        for states in (whole[1:-1] for whole in read(windows, PASS_TOKENS[0]))
        for start in range(0, len(states), STRETCH_TOKENS)
    ]
    return to_units(np.stack(stretches))


def to_units(vectors: Vectors) -> Vectors:
    """Vectors of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def prepare(encoder: Encoder, folder: Path, sample: Sequence[TokenIds]) -> dict[str, Read | str]:
    """Make every encoder, or say why it is not raced: not installed, failed, or hopelessly slow."""
    made: dict[str, Read | str] = {}
    least = 0.0
    for name, make in MAKERS.items():
        try:
            read = make(encoder, folder)
            speed = measure_speed(read, sample)
        except ImportError as error:
            made[name] = f"{error.name or 'a library'} is not installed"
        except Exception as error:  # what one library cannot do must not take the others' figures with it
            made[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        else:
            made[name] = read if speed >= least else f"{speed:,.0f} tokens/s in a trial, not raced"
            least = least or speed * SLOWEST
        print(f"{name}: {made[name] if isinstance(made[name], str) else 'ready'}", flush=True)
    return made


def measure_speed(read: Read, sample: Sequence[TokenIds]) -> float:
    """Tokens per second of a second run, or of the first if that took very long."""
    for _ in range(2):
        begin = time.perf_counter()
        read(sample, PASS_TOKENS[0])
        seconds = time.perf_counter() - begin
        if seconds > 10:
            break
    return count(sample) / seconds


def count(texts: Sequence[TokenIds]) -> int:
    """Tokens of texts."""
    return sum(map(len, texts))


def race_backends(
    readers: Mapping[str, Read], windows: Sequence[TokenIds], chunks: Sequence[TokenIds], *, rounds: int
) -> dict[str, dict[str, Any]]:
    """Speed of every library over the same texts, each with its better pass length."""
    results: dict[str, dict[str, Any]] = {name: {} for name in readers}
    for kind, texts in {"windows": windows, "chunks": chunks}.items():
        heats = {
            (name, tokens): partial(embed, read, texts, tokens)
            for name, read in readers.items()
            for tokens in PASS_TOKENS
        }
        heat = Race.run({f"{tokens} {name}": run for (name, tokens), run in heats.items()}, rounds=2)
        fastest = {name: _fastest_pass(heat, name) for name in readers}
        race = Race.run({name: heats[name, fastest[name]] for name in readers}, rounds=rounds)
        for name in readers:
            results[name][kind] = {**_rate(race, name, OURS, texts), "pass_tokens": fastest[name]}
    return results


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """So many threads for torch, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def race_passes(encoder: Encoder, windows: Sequence[TokenIds], *, rounds: int) -> list[dict[str, Any]]:
    """Our own passes: windows in one, and threads; speed against one window each."""
    read = MAKERS[OURS](encoder, Path())

    def run(per_pass: int, threads: int) -> None:
        with on_threads(threads):
            read(windows, per_pass * len(windows[0]))

    settings = [(per_pass, threads) for threads in sorted({1, THREADS}) for per_pass in WINDOWS_PER_PASS]
    race = Race.run({f"{each}": partial(run, *each) for each in settings}, rounds=rounds + 1)
    race = Race({name: seconds[1:] for name, seconds in race.seconds.items()})  # the first round warms up
    return [
        {
            "windows_per_pass": per_pass,
            "threads": threads,
            **_rate(race, f"{(per_pass, threads)}", f"{(WINDOWS_PER_PASS[0], threads)}", windows),
        }
        for per_pass, threads in settings
    ]


def compare_vectors(
    readers: Mapping[str, Read],
    windows: Sequence[TokenIds],
    chunks: Sequence[TokenIds],
    sets: Sequence[EvalSet],
    encoder: Encoder,
) -> dict[str, dict[str, Any]]:
    """How far every library's vectors turn from ours, and what that costs in retrieval."""
    texts = {"chunks": list(chunks), "queries": []}
    for evalset in sets:
        texts["chunks"] += tokenize(encoder, evalset.chunk_texts)
        texts["queries"] += tokenize(encoder, list(evalset.queries.values()))
    whole: dict[str, Vectors] = {}
    baselines: list[Float[np.ndarray, " queries"]] = []
    results: dict[str, dict[str, Any]] = {}
    for name, read in readers.items():
        found = {kind: embed(read, each, PASS_TOKENS[0]) for kind, each in texts.items() if each}
        found["stretches"] = embed_in_windows(read, windows)
        whole = whole or found
        scores = list(_ask_all(sets, found, first_chunk=len(chunks)))
        baselines = baselines or scores
        results[name] = {
            "cosine": {kind: _cosines(each, whole[kind]) for kind, each in found.items()},
            "sets": {
                evalset.name: {
                    "ndcg_10": round(float(of_set.mean()), 4),
                    "difference": [round(x, 4) for x in mean_interval(of_set - baseline)],
                }
                for evalset, of_set, baseline in zip(sets, scores, baselines, strict=True)
            },
        }
        print(f"{name}: {results[name]}", flush=True)
    return results


def _ask_all(
    sets: Sequence[EvalSet], found: Mapping[str, Vectors], *, first_chunk: int
) -> Iterator[Float[np.ndarray, " queries"]]:
    """The measure of each query, set by set; the sets' chunks stand behind those of the other documents."""
    first_query = 0
    for evalset in sets:
        last_chunk, last_query = first_chunk + len(evalset.chunk_ids), first_query + len(evalset.queries)
        scores = found["queries"][first_query:last_query] @ found["chunks"][first_chunk:last_chunk].T
        ranking = rank(scores, evalset.competing())
        yield measure(ranking, evalset.golds, evalset.answer_ids, measures=[MEASURE])[MEASURE]
        first_chunk, first_query = last_chunk, last_query


def _fastest_pass(heat: Race, name: str) -> int:
    return min(PASS_TOKENS, key=lambda tokens: heat.min_s(f"{tokens} {name}"))


def _rate(race: Race, name: str, over: str, texts: Sequence[TokenIds]) -> dict[str, Any]:
    return {
        "tokens_per_s": round(count(texts) / race.median_s(name)),
        "speed": [round(x, 3) for x in race.speed_up(name, over)],
    }


def _cosines(found: Vectors, whole: Vectors) -> list[float]:
    each = (found * whole).sum(axis=1)
    return [round(float(each.mean()), 5), round(float(each.min()), 5)]


def _describe_libraries() -> Iterator[str]:
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            yield f"{library} {version(library)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--documents", type=int, default=5, help="how many of the 79 topics are cut in chunks"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    window_tokens, window_count = WINDOW_TOKENS, WINDOW_COUNT
    if options.quick:
        options.documents, options.rounds, window_tokens, window_count = 2, 1, 66, 8

    encoder = ContextualEmbedding(strategy="isolated", adapter=None, dtype="float32").encoder
    profile = encoder.profile
    documents = cut_documents(read_documents(options.documents, is_short=options.quick), encoder)
    chunks = tokenize(encoder, [node.get_content() for document in documents for node in document.nodes])
    windows = cut_windows(encoder, window_tokens, window_count)
    sets = [load_set(name, documents=2 if options.quick else SETS[name]) for name in find_sets(SETS)]
    with tempfile.TemporaryDirectory(prefix="rag-embed-backends-") as folder, on_threads(THREADS):
        made = prepare(encoder, Path(folder), windows[:2])
        readers = {name: read for name, read in made.items() if not isinstance(read, str)}
        angles = compare_vectors(readers, windows, chunks, sets, encoder)
        speeds = race_backends(readers, windows, chunks, rounds=options.rounds)
        passes = race_passes(encoder, windows, rounds=options.rounds)
    write_report(
        "backends",
        options,
        model=", ".join([profile.name, f"sha256 {profile.weights_sha256[:12]}", *_describe_libraries()]),
        data=f"{len(documents)} documents of pydoc_data.topics (CPython)"
        + "".join(f", {evalset.name}" for evalset in sets),
        n=options.rounds,
        interval="smallest and largest ratio over the rounds; of nDCG 95 % paired bootstrap over queries",
        results={
            "windows": {"count": len(windows), "tokens": window_tokens},
            "chunks": {"count": len(chunks), "tokens": count(chunks)},
            "sets": {
                evalset.name: {"queries": len(evalset.queries), "chunks": len(evalset.chunk_ids)}
                for evalset in sets
            },
            "backends": {
                name: {"missing": read} if isinstance(read, str) else {**speeds[name], **angles[name]}
                for name, read in made.items()
            },
            "passes": passes,
        },
    )


if __name__ == "__main__":
    main()
