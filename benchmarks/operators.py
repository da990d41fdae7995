"""Where the time of an embedding goes: the share of each operator in one profiled pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO

from torch.profiler import ProfilerActivity, profile

from benchmarks.corpus import cut_documents, read_documents
from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding

GROUPS = {
    "aten::addmm": "linear layers (addmm)",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::gelu": "GELU",
    "aten::native_layer_norm": "layer norm",
    "aten::copy_": "copies",
    "aten::add": "residuals",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--documents", type=int, default=8, help="how many of the 79 topics")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    count = 1 if options.quick else options.documents
    documents = cut_documents(read_documents(count, is_short=options.quick), model.encoder)
    shares: dict[str, dict[str, float]] = {}
    for strategy in ("isolated", "late"):
        embed = model.model_copy(update={"strategy": strategy})
        nodes = [node.model_copy(deep=True) for document in documents for node in document.nodes]
        embed([node.model_copy(deep=True) for node in documents[0].nodes])
        with redirect_stderr(StringIO()), profile(activities=[ProfilerActivity.CPU]) as profiler:
            embed(nodes)
        own_us: dict[str, float] = defaultdict(float)
        for event in profiler.key_averages():
            own_us[GROUPS.get(event.key, "all else")] += event.self_cpu_time_total
        whole = sum(own_us.values())
        shares[strategy] = {name: round(us / whole, 4) for name, us in sorted(own_us.items())}
    write_report(
        "operators",
        options,
        model=f"{model.profile.name}, float32 on {model.encoder.device}",
        data=f"{len(documents)} documents of pydoc_data.topics (CPython)",
        n=1,
        interval="none: one profiled pass",
        results={"shares": shares},
    )


if __name__ == "__main__":
    main()
