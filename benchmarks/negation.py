"""How often a denial is nearer to a statement than its paraphrase: the error rate on negation triplets.

Published on another set of this kind (poster of Jina v1's paper): 8 % for MiniLM, and 5 % after training on
such triplets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.bootstrap import mean_interval
from benchmarks.negation_triplets import NegationTriplet, list_triplets
from benchmarks.report import make_parser, write_report
from rag_embed import ContextualEmbedding
from rag_embed.profiles import EMBEDDED_MODEL

PUBLISHED_ERROR_RATE = 0.08
"""Of MiniLM, on the triplets of Jina v1's paper, which are others than these."""


def find_errors(model: ContextualEmbedding, triplets: Sequence[NegationTriplet]) -> list[bool]:
    """For each triplet whether the denial is nearer to the statement than the paraphrase is."""
    anchors, entailments, negatives = (
        np.array(model.get_text_embedding_batch([getattr(triplet, part) for triplet in triplets]))
        for part in ("anchor", "entailment", "negative")
    )
    near, far = ((anchors * others).sum(axis=1) for others in (entailments, negatives))
    return [bool(x) for x in far > near]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="folder or hub id")
    options = parser.parse_args(argv)
    triplets = list_triplets()[:: 10 if options.quick else 1]
    model = ContextualEmbedding(model=options.model, strategy="isolated", dtype="float32")
    errors = find_errors(model, triplets)
    write_report(
        "negation",
        options,
        model=f"{model.profile.name}, sha256 {model.profile.weights_sha256[:12]}, float32",
        data="benchmarks/negation_triplets.py, written for this project",
        n=len(triplets),
        interval="95 % by bootstrap over triplets",
        results={
            "error_rate": mean_interval(np.array(errors, dtype=float)),
            "published": PUBLISHED_ERROR_RATE,
        },
    )


if __name__ == "__main__":
    main()
