"""Late chunking: read the document first, cut it into chunks afterwards.

Günther et al. 2024, "Late Chunking: Contextual Chunk Embeddings Using Long-Context Embedding Models",
arXiv:2409.04701, algorithm 1 and section 3 ("long late chunking"). Differences: chunks are located by
characters, straddling tokens are kept, overlap states come from the more central window, special tokens are
in no chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from rag_embed.errors import ContextOverflowError, EmptyTextError, InputError
from rag_embed.guards import check_form, check_late
from rag_embed.modes import ALPHA
from rag_embed.native import embed_native
from rag_embed.passes import (
    DEFAULT_WINDOWS,
    NO_TOKENS,
    JoinedReading,
    Reading,
    TextReading,
    TokenEncoder,
    WindowOptions,
    make_window_reading,
    read,
    tokenize_head,
)
from rag_embed.pooling import blend
from rag_embed.spans import CharSpan, TokenSpan, align_tokens
from rag_embed.tokens import Tokens
from rag_embed.vector_form import UNIT_FORM, VectorForm, form_vectors

__all__ = ["Strategy", "TokenEncoder", "WindowOptions", "embed_chunks", "embed_isolated", "embed_late"]

Strategy = Literal["isolated", "late", "blend", "native"]


def embed_late(
    encoder: TokenEncoder,
    text: str,
    spans: Sequence[CharSpan],
    *,
    head: str = "",
    options: WindowOptions = DEFAULT_WINDOWS,
    form: VectorForm = UNIT_FORM,
) -> Float[Tensor, "chunks form_dim"]:
    """Embed the chunks of one document in the document's context.

    Args:
        encoder: Gives token states.
        text: The whole document, of any length.
        spans: Characters of each chunk, in any order; chunks may overlap and leave gaps.
        head: Text that is put before every window, attended to and never pooled: a title, a heading path.
        options: Sizes of windows, overlap and head.
        form: Size and numbers of the vectors.

    Returns:
        One vector per span in the given order, float32 on the CPU; of length 1 unless `form` says otherwise.

    Raises:
        UnsupportedModelError: A chunk's mean state is not what the model was trained to give.
        EmptyTextError: The document has no token.
        EmptySpanError: A chunk has no token.
        SpanOutOfRangeError: A span leaves the text.
    """
    check_late(encoder.profile, encoder.insist)
    check_form(encoder.profile, form, encoder.insist)
    tokens = encoder.tokenize(text)
    if not len(tokens):
        raise EmptyTextError(
            f"the tokenizer sees nothing in a document of {len(text)} characters, {text[:40]!r}; leave it out"
        )
    token_spans = align_tokens(text, tokens.starts, tokens.ends, spans)
    head_ids = tokenize_head(encoder, head, options)
    reading = make_window_reading(encoder, tokens.ids, token_spans, head_ids=head_ids, options=options)
    return form_vectors(read(encoder, reading), form)


def embed_isolated(
    encoder: TokenEncoder,
    texts: Sequence[str],
    *,
    options: WindowOptions = DEFAULT_WINDOWS,
    form: VectorForm = UNIT_FORM,
) -> Float[Tensor, "chunks form_dim"]:
    """Embed each text alone, as everybody does: by the model's own pooling, special tokens included.

    A text that is longer than the model reads is not cut: with mean pooling it is read in windows like a
    document, and its vector is the mean over its own tokens.

    Args:
        encoder: Gives token states.
        texts: In any number and of any length; a text without tokens gets the model's vector of nothing.
        options: Sizes of windows and overlap of the texts that are too long.
        form: Size and numbers of the vectors.

    Returns:
        One vector per text in the given order, float32 on the CPU; of length 1 unless `form` says otherwise.

    Raises:
        ContextOverflowError: A text is too long for a model whose vector is one token's state.
        EmptyTextError: A text has no token, and the model adds none of its own.
    """
    check_form(encoder.profile, form, encoder.insist)
    return form_vectors(read(encoder, make_isolated_reading(encoder, texts, options=options)), form)


def make_isolated_reading(
    encoder: TokenEncoder, texts: Sequence[str], *, options: WindowOptions = DEFAULT_WINDOWS
) -> JoinedReading:
    """Make texts ready that are embedded alone; see `embed_isolated`."""
    parts = [
        _read_alone(encoder, text, tokens, options)
        for text, tokens in zip(texts, encoder.tokenize_all(texts), strict=True)
    ]
    return JoinedReading(parts, encoder.dim)


def _read_alone(encoder: TokenEncoder, text: str, tokens: Tokens, options: WindowOptions) -> Reading:
    pooling = encoder.profile.pooling
    if not len(tokens) + len(encoder.prefix_ids) + len(encoder.suffix_ids):
        raise EmptyTextError(f"{encoder.profile.name} sees no token in {text[:40]!r}; leave it out")
    if len(tokens) <= encoder.capacity:
        return TextReading(tokens.ids, pooling)
    if pooling != "mean":
        raise ContextOverflowError(
            f"{len(tokens)} tokens in {text[:40]!r}; {encoder.profile.name} reads {encoder.capacity} and "
            f"makes its vector of one token ({pooling}), so windows cannot be averaged. Split the text"
        )
    whole = [TokenSpan(0, len(tokens))]
    return make_window_reading(encoder, tokens.ids, whole, head_ids=NO_TOKENS, options=options)


def embed_chunks(
    encoder: TokenEncoder,
    text: str,
    spans: Sequence[CharSpan],
    *,
    strategy: Strategy,
    alpha: float = ALPHA,
    head: str = "",
    options: WindowOptions = DEFAULT_WINDOWS,
    form: VectorForm = UNIT_FORM,
) -> Float[Tensor, "chunks form_dim"]:
    """Embed the chunks of one document by any strategy, with one encoder and nothing put before the chunks.

    `load_embedder` gives what an index has: prefixes, metadata, and an adapted encoder for the windows.

    Args:
        encoder: Gives token states.
        text: The whole document.
        spans: Characters of each chunk.
        strategy: "isolated", "late", "blend" of both, or "native", the way of a model that was trained to
            embed the chunks of a document together.
        alpha: Share of the late vector in a blend, from 0 to 1.
        head: Context head of the windows.
        options: Sizes of windows, overlap and head.
        form: Size and numbers of the vectors.

    Returns:
        One vector per span in the given order, float32 on the CPU; of length 1 unless `form` says otherwise.

    Raises:
        InputError: `alpha` is outside [0, 1], or a blend is to have another precision than "float".
        UnsupportedModelError: The model was not trained for the strategy or the form.
        EmptyTextError: The document has no token.
        EmptySpanError: A chunk has no token; with "native" that is no error.
    """
    check_blend(strategy, alpha, form)
    chunks = [text[span.start : span.end] for span in spans]
    if strategy == "native":
        return embed_native(encoder, chunks, head=head, options=options, form=form)
    if strategy == "isolated":
        return embed_isolated(encoder, chunks, options=options, form=form)
    late = embed_late(encoder, text, spans, head=head, options=options, form=form)
    if strategy == "late":
        return late
    isolated = embed_isolated(encoder, chunks, options=options, form=form)
    return blend(late, isolated, alpha, spans=spans)


def check_blend(strategy: Strategy, alpha: float, form: VectorForm) -> None:
    """Refuse a share that is none, and a blend of codes.

    Raises:
        InputError: `alpha` is outside [0, 1], or a blend is to have another precision than "float".
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected a share of the late vector between 0 and 1")
    if strategy == "blend" and form.precision != "float":
        raise InputError(f"a blend has no precision {form.precision!r}; use 'float', or one strategy alone")
