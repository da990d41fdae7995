"""Every error that rag-embed raises on purpose.

    RagEmbedError
    ├─ InputError (ValueError)
    │   ├─ EmptyTextError            a text without a single token
    │   ├─ EmptySpanError            a chunk without a single token; its mean would be NaN
    │   ├─ SpanOutOfRangeError       a span outside its text, or reversed
    │   └─ AlignmentError            a chunk that cannot be found in its document
    ├─ ModelError
    │   ├─ UnsupportedModelError     a checkpoint that this encoder cannot use correctly
    │   ├─ OffsetsUnavailableError   a tokenizer that does not report character offsets
    │   ├─ ContextOverflowError      more tokens than the model can attend to
    │   ├─ NonFiniteError            NaN or infinity in token states or vectors
    │   ├─ EncoderUnavailableError   a served encoder that does not answer, or does not let us in
    │   └─ EncoderAnswerError        a served encoder whose answer is not what this encoder computes
    ├─ StoreError
    │   ├─ DimensionMismatchError    vectors of another size than the collection's
    │   ├─ FingerprintMismatchError  vectors made in another way than the collection's
    │   ├─ MissingVectorError        a stored vector that is needed and absent
    │   ├─ UnsupportedQueryError     a query mode or filter that the engine cannot do
    │   ├─ StoreLockedError          an embedded folder that another process holds
    │   └─ StoreUnavailableError     a server that does not answer, or does not let us in
    └─ MissingExtraError (ImportError)   an optional dependency that is not installed

Each message says what was found, what was expected and what to do.
"""

from __future__ import annotations


class RagEmbedError(Exception):
    """Base class of every deliberate error of this package."""


class InputError(RagEmbedError, ValueError):
    """The caller's text, spans or options cannot be used."""


class EmptyTextError(InputError):
    """A text holds no token."""


class EmptySpanError(InputError):
    """Chunks hold no token.

    Args:
        message: What was found and what to do.
        indices: Positions of the empty chunks, in the order of the caller's list.
    """

    def __init__(self, message: str, indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.indices = indices


class SpanOutOfRangeError(InputError):
    """A span leaves its text, or ends before it starts."""


class AlignmentError(InputError):
    """A chunk cannot be located in its document."""


class ModelError(RagEmbedError):
    """A model cannot do what was asked of it."""


class UnsupportedModelError(ModelError):
    """The checkpoint cannot be loaded, or not used correctly."""


class OffsetsUnavailableError(ModelError):
    """The tokenizer does not report character offsets."""


class ContextOverflowError(ModelError):
    """A prompt has more tokens than the model can attend to."""


class NonFiniteError(ModelError):
    """Token states or vectors contain NaN or infinity."""


class EncoderUnavailableError(ModelError):
    """The server of an encoder does not answer, or refuses the credentials."""


class EncoderAnswerError(ModelError):
    """The server of an encoder answers with something else than the states of the tokens it was sent."""


class StoreError(RagEmbedError):
    """A vector store cannot do what was asked of it."""


class DimensionMismatchError(StoreError):
    """Vectors have another size than those of the collection."""


class FingerprintMismatchError(StoreError):
    """Vectors were made in another way than those of the collection."""


class MissingVectorError(StoreError):
    """A vector that is needed is not there."""


class UnsupportedQueryError(StoreError):
    """The engine cannot run this query mode or filter."""


class StoreLockedError(StoreError):
    """Another process holds the embedded folder."""


class StoreUnavailableError(StoreError):
    """The server does not answer, or refuses the credentials."""


class MissingExtraError(RagEmbedError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""
