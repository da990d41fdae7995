"""The words of a text as a sparse vector: BM25 by Qdrant's own model.

Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", section 3. The weights of
a document's terms are stored; a query asks for terms, and the engine multiplies by their inverse document
frequency, which it counts over the collection itself (modifier IDF). The embedded engine, a server's
`qdrant/bm25` and FastEmbed's `Qdrant/bm25` agree on the terms and their ids.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from qdrant_client import models

from rag_embed.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import qdrant_edge

Tokenizer = Literal["word", "whitespace", "multilingual", "code"]


class LexicalForm(BaseModel):
    """How a text becomes terms; `LexicalForm.model_validate("german")` is short for `language="german"`.

    Attributes:
        language: Whose words are brought to their stems, and whose frequent ones are left out; None does
            neither, for text of many languages.
        tokenizer: What a word is: letters and digits ("word"), what stands between white space, words of
            scripts without spaces ("multilingual"), or names of program code cut at their parts ("code").
        stop_words: Left out instead of those of the language.
        stems: Whether words are brought to their stems, where the language has a stemmer.
        folds_accents: Whether "café" and "cafe" are one word.
        k: How soon repeating a term stops to count.
        b: How much a long text has to pay for its length, from 0 to 1.
        average_terms: Terms of a text of ordinary length.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str | None = "english"
    tokenizer: Tokenizer = "word"
    stop_words: tuple[str, ...] | None = None
    stems: bool = True
    folds_accents: bool = False
    k: Annotated[float, Field(ge=0)] = 1.2
    b: Annotated[float, Field(ge=0, le=1)] = 0.75
    average_terms: Annotated[float, Field(gt=0)] = 256.0

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: object) -> object:
        if value is True:
            return {}
        return {"language": value} if isinstance(value, str) else value

    def to_document(self, text: str) -> models.SparseVector:
        """Weigh the terms of a stored text; empty if it has none.

        Raises:
            MissingExtraError: Qdrant's embedded engine, whose model this is, is not installed.
            InputError: It does not know the language.
        """
        return _to_sparse(_load_model(self).embed_document(text))

    def to_query(self, text: str) -> models.SparseVector:
        """List the terms of a question, each once; empty if all of them are stop words.

        Raises:
            MissingExtraError: As for a document.
            InputError: As for a document.
        """
        return _to_sparse(_load_model(self).embed_query(text))


@lru_cache(maxsize=16)
def _load_model(form: LexicalForm) -> qdrant_edge.Bm25:
    try:
        import qdrant_edge as edge
    except ImportError as error:
        raise MissingExtraError(
            f"lexical= needs Qdrant's BM25 model, which is not installed ({error}); "
            "pip install 'rag-embed[local]', or leave lexical= out"
        ) from error
    options: dict[str, Any] = {}
    if form.language is not None:
        options["language"] = form.language
    if form.language is None or form.stop_words is not None:
        options["stopwords"] = edge.StopwordsSet(languages=set(), custom=set(form.stop_words or ()))
    if form.language is None or not form.stems:
        options["stemmer"] = edge.DisabledStemmer()
    try:
        return edge.Bm25(
            edge.Bm25Config(
                k=form.k,
                b=form.b,
                avg_len=form.average_terms,
                tokenizer=getattr(edge.TokenizerType, form.tokenizer.capitalize()),
                ascii_folding=form.folds_accents,
                **options,
            )
        )
    except ValueError as error:
        raise InputError(
            f"lexical language is {form.language!r}: {error}; expected one that Qdrant's BM25 model knows, "
            "such as 'english', 'german', 'french', 'spanish', 'chinese' or 'japanese', or None for any"
        ) from error


def _to_sparse(vector: qdrant_edge.SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))
