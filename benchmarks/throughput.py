"""Throughput: same documents, chunk borders and weights, ours and the peers taking turns in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentence_transformers import SentenceTransformer

from benchmarks.corpus import CutDocument, count_tokens, cut_documents, read_documents
from benchmarks.peers import GivenBorders, as_chunks
from benchmarks.race import Race
from benchmarks.report import make_parser, write_report
from benchmarks.work import (
    GEMM_FLOPS,
    encoder_flops,
    gemm_contestants,
    gemm_rates,
    log_passes,
    log_windows,
)
from rag_embed import CharSpan, ContextualEmbedding, Encoder

LLAMAINDEX = "LlamaIndex HuggingFaceEmbedding"
SBERT = "sentence-transformers"
CHONKIE = "chonkie LateChunker"
DEFAULT_BATCH_SIZE = {LLAMAINDEX: 10, SBERT: 32}
OTHER_BATCH_SIZES = {LLAMAINDEX: (4, 32, 64), SBERT: (4, 8, 16, 64)}


def ours(strategy: str, nodes: Sequence[BaseNode]) -> Callable[[], object]:
    """Embed as in an ingestion pipeline."""
    model = ContextualEmbedding(strategy=strategy, dtype="float32")

    def embed() -> None:
        for node in nodes:
            node.embedding = None
        model(nodes)

    return embed


def llamaindex(
    model: HuggingFaceEmbedding, batch_size: int, nodes: Sequence[BaseNode]
) -> Callable[[], object]:
    """Embed the same nodes the way LlamaIndex does."""

    def embed() -> None:
        model.embed_batch_size = batch_size
        model(nodes)

    return embed


def chonkie(
    model: SentenceTransformer, documents: Sequence[CutDocument], encoder: Encoder
) -> Callable[[], object]:
    """Late chunking as chonkie does it, one document after the other, at our borders."""
    chunker = GivenBorders(model)
    chunks = {}
    for document in documents:
        spans = [CharSpan(node.start_char_idx, node.end_char_idx) for node in document.nodes]
        counts = count_tokens(encoder, document.text, spans)
        chunks[document.text] = as_chunks(document.text, spans, counts)

    def embed() -> None:
        for text, borders in chunks.items():
            chunker.embed(text, borders)

    return embed


def log_once(
    embed: Callable[[], object], model: ContextualEmbedding, peer: SentenceTransformer
) -> dict[str, float]:
    """Run once unmeasured, which also warms up, and count what had to be computed."""
    config = model.encoder._model.config
    late = model.model_copy(update={"strategy": "late"})
    layers = model.embedder.shared_layers
    assert layers is not None
    transformers = {id(each): each for each in (model.encoder._model, late.context_encoder._model, peer[0])}
    with ExitStack() as stack:
        watched = [stack.enter_context(log_passes(each)) for each in transformers.values()]
        texts, windows = stack.enter_context(log_windows(layers))
        embed()
    watched.append(texts)
    logs = [log for log in watched if log.lengths]
    lengths = [length for log in logs for length in log.lengths]
    computed = sum(lengths)
    flops = encoder_flops(
        lengths,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
    )
    flops += encoder_flops(
        windows.lengths,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=layers.upper_count,
    )
    return {
        "tokens_computed": computed,
        "passes": len(lengths),
        "padding_share": round(sum(log.padding_share * sum(log.lengths) for log in logs) / computed, 4),
        "flops_needed": flops,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--documents", type=int, default=30, help="how many of the 79 topics")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    if options.quick:
        options.documents, options.rounds = 3, 1

    model = ContextualEmbedding(dtype="float32")
    encoder, adapter = model.encoder, model.located_adapter
    profile = encoder.profile
    documents = cut_documents(read_documents(options.documents, is_short=options.quick), encoder)
    nodes = [node for document in documents for node in document.nodes]
    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    if texts != [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]:
        raise ValueError("metadata would be embedded by one contestant and not by another")
    hugging_face = HuggingFaceEmbedding(
        str(profile.folder), device=str(encoder.device), max_length=profile.max_tokens
    )
    peer = hugging_face._model  # one copy of the weights for all peers

    contestants = {f"rag-embed {name}": ours(name, nodes) for name in ("isolated", "late", "blend")}
    isolated_peers: list[str] = []
    tuning: dict[str, dict[str, float]] = {}
    for name, make in {
        LLAMAINDEX: lambda size: llamaindex(hugging_face, size, nodes),
        SBERT: lambda size: partial(peer.encode, texts, batch_size=size, normalize_embeddings=True),
    }.items():
        default = DEFAULT_BATCH_SIZE[name]
        entrants = {f"{name}, batch {default} (default)": make(default)}
        if not options.quick:
            heats = {f"{name}, batch {size}": make(size) for size in OTHER_BATCH_SIZES[name]}
            heat = Race.run(heats, rounds=2)
            tuning[name] = {key: round(heat.min_s(key), 3) for key in heats}
            best = min(heats, key=heat.min_s)
            entrants[f"{best} (best other)"] = heats[best]
        isolated_peers += entrants
        contestants |= entrants
    contestants[CHONKIE] = chonkie(peer, documents, encoder)

    work = {name: log_once(embed, model, peer) for name, embed in contestants.items()}
    gemms = gemm_contestants(1e8 if options.quick else GEMM_FLOPS)
    Race.run(gemms, rounds=1)
    race = Race.run({**contestants, **gemms}, rounds=options.rounds)
    peak = max(gemm_rates(race).values())
    content_tokens = sum(len(encoder.tokenize(document.text)) for document in documents)
    baseline = isolated_peers[0]
    best_peer = min(isolated_peers, key=race.median_s)
    characters = sum(len(document.text) for document in documents)
    write_report(
        "throughput",
        options,
        model=f"{profile.name}, sha256 {profile.weights_sha256[:12]}, adapter "
        f"{adapter.name if adapter else 'none'} in windows, float32 on {encoder.device}",
        data=f"{len(documents)} documents of pydoc_data.topics (CPython), {characters} characters",
        n=options.rounds,
        interval="smallest and largest ratio over the rounds",
        results={
            "content_tokens": content_tokens,
            "chunk_count": len(nodes),
            "chunk_tokens": _five_numbers([len(encoder.tokenize(text)) for text in texts]),
            "peak_gflops": round(peak / 1e9, 1),
            "gemm_gflops": {name: round(rate / 1e9, 1) for name, rate in gemm_rates(race).items()},
            "llamaindex": baseline,
            "best_peer": best_peer,
            "tuning_s": tuning,
            "contestants": {
                name: {
                    "median_s": round(race.median_s(name), 3),
                    "min_s": round(race.min_s(name), 3),
                    "characters_per_s": round(characters / race.median_s(name)),
                    "tokens_per_s": round(content_tokens / race.median_s(name)),
                    "over_llamaindex": [round(x, 3) for x in race.speed_up(name, baseline)],
                    "over_best_peer": [round(x, 3) for x in race.speed_up(name, best_peer)],
                    "peak_share": round(work[name]["flops_needed"] / race.median_s(name) / peak, 3),
                    **work[name],
                }
                for name in contestants
            },
        },
    )


def _five_numbers(values: Sequence[int]) -> dict[str, float]:
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    return dict(zip(names, np.percentile(values, [0, 25, 50, 75, 100]).tolist(), strict=True))


if __name__ == "__main__":
    main()
