"""Train the shipped adapter of the whole encoder: `python -m recipes.context_adapter --out folder`.

It serves `late`, and servers. The texts are those of `corpora.sources`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from corpora.sources import read_sources
from rag_embed.training.progress import Snapshot
from rag_embed.training.trainer import TrainingOptions, train_adapter

OPTIONS = TrainingOptions(steps=120, check_every=30)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=OPTIONS.steps)
    parser.add_argument("--hold", type=float, default=OPTIONS.loss.hold)
    arguments = parser.parse_args(argv)
    documents, sources = read_sources()
    for source in sources:
        print(f"{source.name}: {source.documents} documents, {source.questions} questions, {source.licence}")
    options = replace(
        OPTIONS,
        seed=arguments.seed,
        steps=arguments.steps,
        loss=replace(OPTIONS.loss, hold=arguments.hold),
    )
    card: dict[str, object] = {
        "sources": [asdict(source) for source in sources],
        "command": f"python -m recipes.context_adapter --seed {arguments.seed} --hold {arguments.hold:g}",
    }
    train_adapter(
        documents,
        arguments.out,
        options=options,
        card=card,
        on_step=print_step,
    )


def print_step(snapshot: Snapshot) -> None:
    """Say what the terms of the loss were."""
    terms = "  ".join(f"{name} {value:.3f}" for name, value in snapshot.losses.items())
    held_out = "" if snapshot.held_out_loss is None else f"  held out {snapshot.held_out_loss:.4f}"
    print(f"{snapshot.step}/{snapshot.steps}  {terms}{held_out}", flush=True)


if __name__ == "__main__":
    main()
