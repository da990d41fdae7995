"""The words of a text, against a tokenizer and a formula written down here."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_embed.errors import InputError
from rag_embed.evaluation.lexical import WordIndex
from rag_embed.qdrant.lexical import LexicalForm

PLAIN = LexicalForm(language=None)
WORDS = st.lists(
    st.sampled_from(["harbour", "café", "zoo", "rates", "2024", "kiel", "ferry", "dock"]), max_size=12
)


def slow_weights(text: str, form: LexicalForm) -> list[float]:
    """BM25's saturation of each word's count, sorted."""
    words = re.findall(r"[^\W_]+", text.lower())
    counts = {word: words.count(word) for word in words}
    norm = form.k * (1 - form.b + form.b * len(words) / form.average_terms)
    return sorted(count * (form.k + 1) / (count + norm) for count in counts.values())


@given(WORDS)
def test_weights_of_a_document_are_those_of_bm25(words: list[str]) -> None:
    text = ", ".join(words)
    found = PLAIN.to_document(text)
    assert sorted(found.values) == pytest.approx(slow_weights(text, PLAIN), abs=1e-5)
    assert len(set(found.indices)) == len(found.indices)


@given(WORDS)
def test_a_query_asks_for_each_word_once_by_the_documents_ids(words: list[str]) -> None:
    asked = PLAIN.to_query(" ".join(words))
    assert sorted(asked.indices) == sorted(PLAIN.to_document(" ".join(words)).indices)
    assert set(asked.values) <= {1.0}


def test_forms_of_a_word_are_one_term_and_frequent_words_are_none() -> None:
    english = LexicalForm()
    assert english.to_query("the of and").indices == []
    assert english.to_query("running").indices == english.to_document("The runs").indices
    assert PLAIN.to_query("running").indices != PLAIN.to_document("runs").indices
    german = LexicalForm.model_validate("german")
    assert (
        german.to_query("die Häfen").indices == german.to_document("des Hafens").indices
        or german.to_query("laufen").indices == german.to_document("laufend").indices
    )


def test_a_name_of_code_is_found_by_its_parts() -> None:
    code = LexicalForm().to_document("def read_config_file(path): ...")
    assert set(LexicalForm().to_query("config").indices) <= set(code.indices)


def test_a_language_that_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"'klingon'.*such as 'english'"):
        LexicalForm(language="klingon").to_query("word")


def test_scores_over_a_set_are_bm25_with_qdrants_inverse_document_frequency() -> None:
    texts = ["zoo zoo ferry", "ferry dock", "kiel"]
    form = LexicalForm(language=None)
    scores = WordIndex(texts, form).score_all(["zoo ferry", "nothing"])

    def weight(count: int, length: int) -> float:
        return count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / 256))

    def idf(documents: int) -> float:
        return math.log(1 + (3 - documents + 0.5) / (documents + 0.5))

    expected = [idf(1) * weight(2, 3) + idf(2) * weight(1, 3), idf(2) * weight(1, 2), 0.0]
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert scores[1].tolist() == [0.0, 0.0, 0.0]
