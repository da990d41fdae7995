"""What each source of texts and each term of the loss gives the adapter of the dense default.

The first training of the recipe (`recipes.shared_adapter`, among neighbours), shorter, each time without one
source or with another loss. Everything else is as the shipped adapter's card says. What a token-level term is
for shows behind late interaction. Trained adapters stay in the cache, so a run may be ended and begun again,
and several with other `--only` share the work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.context import summarise
from benchmarks.evalsets import ANONYMISED, find_sets, load_set
from benchmarks.report import CACHE, QUICK_RESULTS, make_parser, write_set_report
from corpora.sources import read_sources
from rag_embed import ContextualEmbedding
from rag_embed.adapter import CARD_FILE, locate_adapter
from rag_embed.evaluation import Arm, VectorCache, evaluate
from rag_embed.evaluation.arms import ISOLATED, add_rerank
from rag_embed.training.documents import TrainingDocument
from rag_embed.training.losses import LossOptions
from rag_embed.training.trainer import TrainingOptions, train_adapter

SETS = {
    "squad_half": 4,
    "cuad_small": 4,
    ANONYMISED: 40,
    "anthropic_codebase": 30,
    "covidqa": 8,
}
"""Sets, and how many of their documents; few, because every adapter reads all of them."""
QUICK_SETS = ("cuad_small",)
ALL, WITH_TOKENS = "all", "token-level term too"


def read_options(steps: int) -> TrainingOptions:
    """The options of the shipped adapter's first training, with other steps."""
    card = json.loads((locate_adapter("minilm-shared").folder / CARD_FILE).read_text(encoding="utf-8"))
    options = card["mean_of"][0]["options"]
    loss = LossOptions(**options.pop("loss"))
    return TrainingOptions(**{**options, "steps": steps, "check_every": steps, "loss": loss})


def find_variants(
    documents: Sequence[TrainingDocument], options: TrainingOptions
) -> Iterator[tuple[str, list[TrainingDocument], TrainingOptions]]:
    """Each variant's name, its documents and its options."""
    everything = list(documents)
    yield ALL, everything, options
    for source in dict.fromkeys(document.source for document in documents):
        yield f"without {source}", [each for each in everything if each.source != source], options
    losses = {
        "no rivals in the window": {"in_sequence": 0.0},
        "no rivals in other documents": {"in_sequence": 1.0},
        "no document term": {"document": 0.0},
        "no hold": {"hold": 0.0},
        WITH_TOKENS: {"tokens": 0.5},
    }
    for name, changes in losses.items():
        yield name, everything, replace(options, loss=replace(options.loss, **changes))


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="+", default=None, help="train some of the variants, ask nothing")
    parser.add_argument("--sets", nargs="+", default=None, help="some of the sets instead of all")
    options = parser.parse_args(argv)
    documents, _ = read_sources()
    if options.quick:
        documents = documents[:: max(1, len(documents) // 60)]
    folder = (QUICK_RESULTS if options.quick else CACHE) / "ablation"
    arms = [Arm(ISOLATED, {"strategy": "isolated", "adapter": None})]
    training = read_options(2 if options.quick else options.steps)
    variants = list(find_variants(documents, training))
    for name, texts, changed in variants[:: 4 if options.quick else 1]:
        if options.only and name not in options.only:
            continue
        place = folder / f"{changed.steps}-{name.replace(' ', '-')}"
        adapter = train_adapter(texts, place, options=changed)
        arms.append(Arm(name, {"strategy": "blend", "adapter": str(adapter)}))
        if name in (ALL, WITH_TOKENS):
            arms.append(add_rerank(arms[-1]))
        print(f"{name}: trained", flush=True)
    if options.only:
        return
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(options.sets or (QUICK_SETS if options.quick else SETS)):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        of_set = [replace(arm, with_title=evalset.has_titles and arm.name != ISOLATED) for arm in arms]
        model = ContextualEmbedding(dtype="float32")
        found = evaluate(evalset, of_set, model=model, cache=cache)
        results[name] = summarise(found, baselines=(ISOLATED, ALL))
        print(f"{name}: {len(evalset.queries)} queries", flush=True)
    model_name = "all-MiniLM-L6-v2, adapters trained here, strategy blend, float32"
    write_set_report("ablation", options, model=model_name, results=results)


if __name__ == "__main__":
    main()
