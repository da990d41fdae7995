"""A trial, not shipped: one pass over the text for two, `python -m recipes.one_pass_adapter --out folder`.

The shipped adapter goes on learning, on more kinds of texts, with its vectors held near the blend that the
default computes in two passes, and with the token-level term beside the pooled one. What came of it is in
docs/decisions/one-pass.md. Other texts come from where `python -m corpora.fetch` puts them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from corpora.asking import ask
from corpora.fetch import DEBIAN
from corpora.sources import Source, read_sources
from corpora.texts import read_licences, read_manuals, read_profiles, read_speeches
from rag_embed.adapter import locate_adapter
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.filters import drop_foreign
from rag_embed.training.losses import LossOptions
from rag_embed.training.trainer import TrainingOptions, train_adapter
from recipes.context_adapter import print_step

START = "minilm-context"
PAGES_PER_PACKAGE = 40
RULES = ("debian-policy", "developers-reference", "debian-faq", "harden-doc")
MANUALS = tuple(package for package in DEBIAN if package not in RULES)
OPTIONS = TrainingOptions(
    steps=100,
    windows_per_step=16,
    check_every=25,
    learning_rate=7e-4,
    loss=LossOptions(in_sequence=0.3, tokens=0.3, hold=4.0),
)


def read_wider_sources() -> tuple[list[TrainingDocument], list[Source]]:
    """Those of the shipped adapter, and manuals, rules, profiles, licences and speeches."""
    documents, sources = read_sources()
    for licence, content, part in (
        (
            "GPL-2+, Apache-2.0, MPL-2.0, PostgreSQL, BSD-3-Clause, PSF-2.0, public domain",
            f"manuals packaged by Debian: {', '.join(MANUALS)}",
            _ask_pages(MANUALS, source="manuals"),
        ),
        (
            "GPL-2+",
            f"rules and recommendations packaged by Debian: {', '.join(RULES)}",
            _ask_pages(RULES, source="rules"),
        ),
        (
            "public domain",
            "The World Factbook: profiles of countries, full of tables",
            ask(read_profiles(), source="profiles"),
        ),
        (
            "CC0-1.0 (the collection)",
            "SPDX: licence texts, clauses in the language of contracts",
            drop_foreign(ask(read_licences(), source="licences")).documents,
        ),
        ("public domain", "State of the Union addresses: prose", ask(read_speeches(), source="speeches")),
    ):
        documents += part
        questions = sum(len(document.pairs) for document in part)
        sources.append(Source(part[0].source, licence, len(part), questions, content))
    return documents, sources


def _ask_pages(packages: Sequence[str], *, source: str) -> list[TrainingDocument]:
    return ask(read_manuals(packages, limit=PAGES_PER_PACKAGE), source=source)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    documents, sources = read_wider_sources()
    for source in sources:
        print(f"{source.name}: {source.documents} documents, {source.questions} questions, {source.licence}")
    train_adapter(
        documents,
        arguments.out,
        options=replace(OPTIONS, seed=arguments.seed),
        start=locate_adapter(START),
        blend_alpha=0.5,
        card={
            "sources": [asdict(source) for source in sources],
            "command": f"python -m recipes.one_pass_adapter --seed {arguments.seed}",
        },
        on_step=print_step,
    )


if __name__ == "__main__":
    main()
