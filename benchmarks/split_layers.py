"""Reading chunks apart in the lower layers and together in the upper ones: an experiment on one pass.

A chunk keeps its own special tokens and positions, as if it were alone. Up to a layer its tokens attend to
nothing else; from there on to the whole window, in which the head is a text of its own. MacAvaney et al.
2020, "Efficient Document Re-Ranking for Transformers by Precomputing Term Representations",
arXiv:2004.14255, split query and document of a cross-encoder like this. Nothing is trained for it here: the
question is what untrained weights and the shipped adapter, which was trained for whole windows, make of it.
Windows are simpler than the package's: whole chunks one after the other, without overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel

from benchmarks.blends import score
from benchmarks.context import summarise
from benchmarks.evalsets import ANONYMISED, find_sets, load_set
from benchmarks.report import CACHE, describe_model, make_parser, write_set_report
from rag_embed import ContextualEmbedding
from rag_embed.adapter import merge_adapter
from rag_embed.encoder import Encoder
from rag_embed.evaluation import Arm, EvalDocument, EvalSet, VectorCache, evaluate
from rag_embed.evaluation.arms import ISOLATED
from rag_embed.evaluation.metrics import MAIN_MEASURE
from rag_embed.spans import align_tokens

SETS = {"squad_half": 8, ANONYMISED: 60, "cuad_small": 8}
QUICK_SETS = ("cuad_small",)
DEFAULT = "default (two passes)"
SPLITS = (0, 2, 3, 4, 5)
WINDOW_TOKENS, HEAD_TOKENS = 384, 64


def iterate_windows(
    encoder: Encoder, document: EvalDocument, head: str
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Tokens of the head, and of the chunks of each window."""
    tokens = encoder.tokenize(document.text)
    spans = align_tokens(document.text, tokens.starts, tokens.ends, document.spans)
    own_head = encoder.tokenize(head).ids[:HEAD_TOKENS].tolist() if head else []
    special = len(encoder.prefix_ids) + len(encoder.suffix_ids)
    window: list[list[int]] = []
    for span in spans:
        most = WINDOW_TOKENS - len(own_head) - 2 * special
        chunk = tokens.ids[span.start : span.end][:most].tolist()
        used = len(own_head) + special + sum(len(each) + special for each in [*window, chunk])
        if window and used > WINDOW_TOKENS:
            yield own_head, window
            window = []
        window.append(chunk)
    yield own_head, window


@torch.inference_mode()
def read_split(
    model: torch.nn.Module, encoder: Encoder, head: Sequence[int], chunks: Sequence[Sequence[int]], split: int
) -> Float[Tensor, "chunks dim"]:
    """Mean states of the chunks, whose tokens see their own chunk alone in the first `split` layers."""
    before, after = list(encoder.prefix_ids), list(encoder.suffix_ids)
    texts = [list(each) for each in ([head] if head else []) + list(chunks)]
    ids = [token for text in texts for token in before + text + after]
    lengths = [len(before) + len(text) + len(after) for text in texts]
    positions = [position for length in lengths for position in range(length)]
    owners = torch.arange(len(texts)).repeat_interleave(torch.tensor(lengths))
    apart = torch.zeros(1, 1, len(ids), len(ids)).masked_fill(owners[:, None] != owners, -torch.inf)
    states = model.embeddings(input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]))
    for number, layer in enumerate(model.encoder.layer):
        states = layer(states, attention_mask=apart if number < split else None)
    parts = states[0].split(lengths)[-len(chunks) :]
    return torch.stack([part[len(before) : len(part) - len(after)].mean(dim=0) for part in parts])


def load_plain(model: ContextualEmbedding, *, with_adapter: bool) -> torch.nn.Module:
    """The model without packing, so that it takes masks."""
    plain: torch.nn.Module = AutoModel.from_pretrained(
        model.profile.folder, attn_implementation="sdpa"
    ).eval()
    adapter = model.recipe.located_adapter
    if with_adapter and adapter is not None:
        merge_adapter(plain, adapter, weights_sha256=model.profile.weights_sha256)
    return plain


def measure_split(
    evalset: EvalSet,
    plain: torch.nn.Module,
    encoder: Encoder,
    queries: Float[Tensor, "queries dim"],
    split: int,
) -> float:
    """Mean nDCG@10 of the split reading."""
    vectors = []
    for document in evalset.documents:
        has_head = evalset.has_titles and document.title
        head = f"{document.title_key}: {document.title}\n\n" if has_head else ""
        for own_head, chunks in iterate_windows(encoder, document, head):
            vectors.append(read_split(plain, encoder, own_head, chunks, split))
    return score(evalset, queries, normalize(torch.cat(vectors), dim=1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--one-pass", default=None, help="folder of what recipes.one_pass_adapter trained")
    options = parser.parse_args(argv)
    model = ContextualEmbedding(dtype="float32")
    models = {label: load_plain(model, with_adapter=label == "adapter") for label in ("untrained", "adapter")}
    cache = VectorCache(CACHE / "vectors")
    results: dict[str, dict[str, object]] = {}
    for name in find_sets(QUICK_SETS if options.quick else SETS):
        evalset = load_set(name, documents=2 if options.quick else SETS[name])
        arms = [
            Arm(ISOLATED, {"adapter": None, "strategy": "isolated"}),
            Arm(DEFAULT, {"strategy": "blend"}, with_title=evalset.has_titles, is_default=True),
            Arm("adapter alone", {"strategy": "late"}, with_title=evalset.has_titles),
        ]
        if options.one_pass:
            towards = {"strategy": "late", "adapter": options.one_pass}
            arms.append(Arm("trained towards the blend, alone", towards, with_title=evalset.has_titles))
        summary = summarise(evaluate(evalset, arms, model=model, cache=cache), (ISOLATED,))
        queries = torch.stack([model.embed_query(query) for query in evalset.queries.values()])
        rows: list[dict[str, object]] = list(summary["rows"])  # type: ignore[call-overload]
        for label, plain in models.items():
            for split in (0,) if options.quick else SPLITS:
                found = measure_split(evalset, plain, model.encoder, queries, split)
                rows.append({"arm": f"{label}, {split} layers apart", MAIN_MEASURE: round(found, 4)})
        results[name] = {**summary, "rows": rows}
        print(f"{name}: {len(rows)} arms, {len(evalset.queries)} queries", flush=True)
    write_set_report("split_layers", options, model=describe_model(model), results=results)


if __name__ == "__main__":
    main()
