"""Train the shipped adapter of the dense default: `python -m recipes.shared_adapter --out folder`.

It changes the two upper layers of six, and chunks are read alone and in their window in one pass
(`rag_embed.shared_layers`). It is the mean of two trainings, each from three seeds: in one an answer has to
win against its neighbours and other documents, in the other against chunks from all over its document too.
The first is better where a chunk says enough by itself, the second where a document has many chunks alike.
What seeds do not agree on loses more than it gains. The texts are those of `corpora.sources`. What was tried
beside these options is in docs/decisions/one-pass.md. Parts that are there already are not trained again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from corpora.sources import read_sources
from rag_embed.adapter import locate_adapter
from rag_embed.training.averaging import average_adapters
from rag_embed.training.losses import LossOptions
from rag_embed.training.trainer import TrainingOptions, train_adapter
from recipes.context_adapter import print_step

AMONG_NEIGHBOURS = TrainingOptions(
    rank=32,
    steps=120,
    windows_per_step=12,
    window_tokens=512,
    shared_layers=4,
    check_every=30,
    loss=LossOptions(in_sequence=0.75, hold=0.2),
)
IN_THE_DOCUMENT = replace(
    AMONG_NEIGHBOURS,
    window_tokens=768,
    windows_per_document=3,
    loss=LossOptions(in_sequence=0.6, hold=0.2),
)
PARTS = {"neighbours": AMONG_NEIGHBOURS, "document": IN_THE_DOCUMENT}
SEEDS = (0, 1, 2)
RANK = 96
"""Of the mean; it keeps 99.8 % of the squares of what all parts change, in half of the bytes."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter, its parts beside it")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--leave-out", default=None, help="name of a source that is not trained on")
    arguments = parser.parse_args(argv)
    documents, sources = read_sources()
    documents = [document for document in documents if document.source != arguments.leave_out]
    sources = [source for source in sources if source.name != arguments.leave_out]
    for source in sources:
        print(f"{source.name}: {source.documents} documents, {source.questions} questions, {source.licence}")
    parts = [
        train_adapter(
            documents,
            arguments.out.with_name(f"{arguments.out.name}-{name}-{seed}"),
            options=replace(options, seed=seed),
            on_step=print_step,
        )
        for seed in arguments.seeds
        for name, options in PARTS.items()
    ]
    said = f"--seeds {' '.join(map(str, arguments.seeds))}"
    said += f" --leave-out {arguments.leave_out}" if arguments.leave_out else ""
    average_adapters(
        [locate_adapter(part) for part in parts],
        arguments.out,
        window_tokens=AMONG_NEIGHBOURS.window_tokens,
        rank=RANK,
        card={
            "sources": [asdict(source) for source in sources],
            "command": f"python -m recipes.shared_adapter {said}",
        },
    )


if __name__ == "__main__":
    main()
