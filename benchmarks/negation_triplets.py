"""Triplets of a statement, one that says the same, and one that denies it; written for this project.

The kind of set that Jina v1 is measured on (Günther et al. 2023, arXiv:2307.11224): the denial shares more
words with the statement than the paraphrase does, so a model that counts words gets it wrong. None of its
sentences is theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NegationTriplet:
    """Three sentences.

    Attributes:
        anchor: A statement.
        entailment: The same, in other words.
        negative: Its denial, nearly in its words.
    """

    anchor: str
    entailment: str
    negative: str


_BY_HAND = Path(__file__).with_suffix(".jsonl")

# A subject, what it does in two wordings, and its denial. Every subject goes with every predicate beside it.
_TEMPLATES = (
    (
        ("The new engine", "The red valve", "This pump", "The spare motor", "The second turbine"),
        (
            ("{} works under water.", "When submerged, {} keeps running.", "{} does not work under water."),
            ("{} needs oil.", "Lubricant is required by {}.", "{} needs no oil."),
            (
                "{} starts in the cold.",
                "At low temperatures {} can be switched on.",
                "{} does not start in the cold.",
            ),
            (
                "{} was tested last week.",
                "Some days ago {} was put on trial.",
                "{} was not tested last week.",
            ),
        ),
    ),
    (
        ("The library", "The swimming pool", "The post office", "The town hall", "The pharmacy"),
        (
            ("{} is open at night.", "After dark one can enter {}.", "{} is not open at night."),
            (
                "{} accepts credit cards.",
                "Plastic money can be used at {}.",
                "{} does not accept credit cards.",
            ),
            ("{} has a lift.", "An elevator is available in {}.", "{} has no lift."),
            (
                "{} will move next year.",
                "In twelve months {} has another address.",
                "{} will not move next year.",
            ),
        ),
    ),
    (
        ("The lawyer", "My neighbour", "The young doctor", "The farmer", "Her brother"),
        (
            ("{} speaks Italian.", "In Rome {} can talk to people.", "{} does not speak Italian."),
            ("{} trusts the bank.", "Financiers enjoy the confidence of {}.", "{} does not trust the bank."),
            ("{} eats meat.", "Steak is on the menu of {}.", "{} eats no meat."),
            (
                "{} remembered the meeting.",
                "The appointment was kept in mind by {}.",
                "{} did not remember the meeting.",
            ),
        ),
    ),
)


def list_triplets() -> list[NegationTriplet]:
    """All triplets: those written one by one, then those of the templates."""
    lines = _BY_HAND.read_text(encoding="utf-8").splitlines()
    triplets = [NegationTriplet(**json.loads(line)) for line in lines]
    for subjects, predicates in _TEMPLATES:
        for subject in subjects:
            for sentences in predicates:
                within = subject[0].lower() + subject[1:]
                filled = [s.format(subject if s.startswith("{}") else within) for s in sentences]
                triplets.append(NegationTriplet(*filled))
    return triplets
