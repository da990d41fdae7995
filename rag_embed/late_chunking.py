"""Late chunking: read the document first, cut it into chunks afterwards.

Günther et al. 2024, "Late Chunking: Contextual Chunk Embeddings Using Long-Context Embedding Models",
arXiv:2409.04701, algorithm 1 and section 3 ("long late chunking"). Differences: chunks are located by
characters, straddling tokens are kept, overlap states come from the more central window, special tokens are
in no chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rag_embed.errors import ContextOverflowError, EmptyTextError, InputError
from rag_embed.guards import check_form, check_late
from rag_embed.native import embed_native
from rag_embed.passes import (
    DEFAULT_WINDOWS,
    NO_TOKENS,
    TokenEncoder,
    WindowOptions,
    pool_windows,
    tokenize_head,
)
from rag_embed.pooling import blend, pool_text
from rag_embed.spans import CharSpan, TokenSpan, align_tokens
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
    return form_vectors(
        pool_windows(encoder, tokens.ids, token_spans, head_ids=head_ids, options=options), form
    )


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
    tokenized = encoder.tokenize_all(texts)
    pooling = encoder.profile.pooling
    for text, tokens in zip(texts, tokenized, strict=True):
        if not len(tokens) + len(encoder.prefix_ids) + len(encoder.suffix_ids):
            raise EmptyTextError(f"{encoder.profile.name} sees no token in {text[:40]!r}; leave it out")
        if len(tokens) > encoder.capacity and pooling != "mean":
            raise ContextOverflowError(
                f"{len(tokens)} tokens in {text[:40]!r}; {encoder.profile.name} reads {encoder.capacity} and "
                f"makes its vector of one token ({pooling}), so windows cannot be averaged. Split the text"
            )
    fits = [len(tokens) <= encoder.capacity for tokens in tokenized]
    states = encoder.encode(tokens.ids for tokens, does_fit in zip(tokenized, fits, strict=True) if does_fit)
    means = [
        pool_text(next(states), pooling)
        if does_fit
        else pool_windows(
            encoder, tokens.ids, [TokenSpan(0, len(tokens))], head_ids=NO_TOKENS, options=options
        )[0]
        for tokens, does_fit in zip(tokenized, fits, strict=True)
    ]
    return form_vectors(torch.stack(means) if means else torch.empty(0, encoder.dim), form)


def embed_chunks(
    encoder: TokenEncoder,
    text: str,
    spans: Sequence[CharSpan],
    *,
    strategy: Strategy,
    context_encoder: TokenEncoder | None = None,
    alpha: float = 0.5,
    isolated_texts: Sequence[str] | None = None,
    prefix: str = "",
    head: str = "",
    options: WindowOptions = DEFAULT_WINDOWS,
    form: VectorForm = UNIT_FORM,
) -> Float[Tensor, "chunks form_dim"]:
    """Embed the chunks of one document by any strategy.

    Args:
        encoder: Gives token states.
        text: The whole document.
        spans: Characters of each chunk.
        strategy: "isolated", "late", "blend" of both, or "native", the way of a model that was trained to
            embed the chunks of a document together.
        context_encoder: Reads the windows, where that is another than embeds chunks alone: an adapted one.
        alpha: Share of the late vector in a blend, from 0 to 1.
        isolated_texts: What each chunk is when embedded alone; by default its characters.
        prefix: Document prefix: put before each isolated text and before every window.
        head: Context head of the windows, behind the prefix.
        options: Sizes of windows, overlap and head.
        form: Size and numbers of the vectors.

    Returns:
        One vector per span in the given order, float32 on the CPU; of length 1 unless `form` says otherwise.

    Raises:
        InputError: `alpha` is outside [0, 1], the texts do not match the spans, or a blend is to have
            another precision than "float".
        UnsupportedModelError: The model was not trained for the strategy or the form.
        EmptyTextError: The document has no token.
        EmptySpanError: A chunk has no token; with "native" that is no error.
    """
    characters = [text[span.start : span.end] for span in spans]
    texts = [prefix + alone for alone in (characters if isolated_texts is None else isolated_texts)]
    if len(texts) != len(spans) or not 0 <= alpha <= 1:
        raise InputError(
            f"{len(texts)} isolated texts for {len(spans)} spans, alpha {alpha}; "
            "expected one text per span and an alpha between 0 and 1"
        )
    if strategy == "native":
        return embed_native(encoder, characters, prefix=prefix, head=head, options=options, form=form)
    if strategy == "isolated":
        return embed_isolated(encoder, texts, options=options, form=form)
    if strategy == "blend" and form.precision != "float":
        raise InputError(f"a blend has no precision {form.precision!r}; use 'float', or one strategy alone")
    late = embed_late(context_encoder or encoder, text, spans, head=prefix + head, options=options, form=form)
    if strategy == "late":
        return late
    return blend(late, embed_isolated(encoder, texts, options=options, form=form), alpha)
