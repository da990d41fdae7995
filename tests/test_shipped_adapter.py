"""The adapter inside the package, with the real encoder."""

from __future__ import annotations

import json

import pytest
import torch

from rag_embed import CharSpan, ContextualEmbedding
from rag_embed.adapter import locate_adapter, shipped_adapters
from rag_embed.profiles import locate_checkpoint

MACHINES = ["Veltor pump", "Karsund kiln", "Ommeril loom", "Drask turbine", "Pellion press", "Hastrup crane"]
SECTIONS = (
    "It has to be switched off before anybody opens the cover. Wait ten minutes until it has cooled.",
    "The warranty runs for two years from the day of delivery. Damage by frost is not covered by it.",
    "Every six months the bearings are greased with the grease that came in the box. No other may be used.",
    "Spare parts are sent by the maker within three working days. Orders are taken by telephone only.",
)
FILLERS = (
    "The housing is made of cast iron and painted twice at the works before it leaves.",
    "Two people can carry it up a flight of stairs with the straps that are delivered.",
    "On the left side there are three lamps, of which the green one shows that it is ready.",
    "In rooms below the ground a second fan is needed, or the air gets too damp for it.",
    "The first drawings go back to a workshop that burnt down before the war began.",
    "A bell rings when the lid has not been closed, and stops when somebody closes it.",
)
QUESTIONS = (
    "How long must I wait before opening the {}?",
    "For how many years is the {} under warranty?",
    "How often do the bearings of the {} need grease?",
    "How fast are spare parts for the {} delivered?",
)


def test_the_default_of_the_embedded_encoder_uses_it() -> None:
    model = ContextualEmbedding()
    adapter = model.located_adapter
    assert adapter is not None
    assert adapter.base_sha256 == locate_checkpoint().weights_sha256
    assert f"+{adapter.name}@{adapter.sha256[:8]}/" in model.fingerprint()
    assert ContextualEmbedding(adapter=None).located_adapter is None


@pytest.mark.parametrize("name", sorted(shipped_adapters()))
def test_it_is_small_and_says_what_it_was_trained_on(name: str) -> None:
    folder = locate_adapter(name).folder
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert len(card["sources"]) >= 4
    for source in card["sources"]:
        assert source["licence"] and source["content"] and source["questions"] > 0
    assert card["command"].startswith("python -m recipes.")
    for part in card.get("mean_of", [card]):
        curve = part["loss_curve"]
        assert [step for step, _, _ in curve] == list(range(1, len(curve) + 1))
        assert part["best_step"] <= len(curve)


def hit_share(model: ContextualEmbedding) -> float:
    """Share of questions whose chunk comes first; the chunks of all machines read the same."""
    vectors, places = [], []
    for machine in MACHINES:
        text, spans = f"{machine}\n\n", []
        text += "\n\n".join(FILLERS) + "\n\n"
        for section in SECTIONS:
            spans.append(CharSpan(len(text), len(text) + len(section)))
            text += section + "\n\n"
        vectors += model.embedder.embed_chunks(text, spans)
        places += [(machine, number) for number in range(len(SECTIONS))]
    chunks = torch.stack(vectors)
    hits = [
        places[int((chunks @ model.embed_query(question.format(machine))).argmax())] == (machine, number)
        for machine in MACHINES
        for number, question in enumerate(QUESTIONS)
    ]
    return sum(hits) / len(hits)


def test_chunks_know_whose_they_are() -> None:
    """The machine's name stands in the first line alone; a chunk by itself can only guess one of six."""
    isolated = hit_share(ContextualEmbedding(strategy="isolated"))
    assert isolated < 2 / len(MACHINES)
    assert hit_share(ContextualEmbedding()) > isolated + 0.5
