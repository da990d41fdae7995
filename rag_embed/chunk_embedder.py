"""Vectors of chunks and queries by a recipe: what an index holds, without LlamaIndex."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from rag_embed.chunked_text import ChunkedText
from rag_embed.document_reading import (
    find_chunks,
    keep_tokens_apart,
    keeps_tokens_alone,
    make_document_windows,
    prepare_alone,
    prepare_in_context,
    prepare_shared,
    prepare_windows,
)
from rag_embed.errors import EmptyTextError
from rag_embed.guards import Side, check_late_interaction, check_prefixes
from rag_embed.late_chunking import embed_isolated
from rag_embed.late_interaction import SpanTokens, TokenVectors, embed_query_tokens, make_span_tokens
from rag_embed.max_sim import DEFAULT_FORM, KeptTokens, TokenForm
from rag_embed.passes import (
    TokenEncoder,
    WindowReading,
    read,
    read_all,
)
from rag_embed.pooling import blend
from rag_embed.recipe import Recipe
from rag_embed.shared_layers import SharedLayers
from rag_embed.shared_reading import read_shared
from rag_embed.spans import CharSpan, align_tokens
from rag_embed.tokens import Tokens
from rag_embed.vector_form import form_vectors
from rag_embed.window_cache import WindowCache

Embedded: TypeAlias = tuple[Float[Tensor, "chunks form_dim"], list[KeptTokens | None]]
"""Vectors of a document's chunks, and what is kept of their token states."""

_GROUP = 64
"""Documents that are made ready together; the short ones among them share passes."""


@dataclass(frozen=True)
class ChunkEmbedder:
    """Embeds by a recipe. Use `load_embedder`.

    Attributes:
        recipe: How vectors are made.
        encoder: Reads queries, and chunks alone.
        load_context_encoder: Loads what reads windows, at its first use: who only asks never needs it.
        token_form: What `embed_with_tokens` keeps of token states.
        load_shared_layers: Loads what reads chunks both ways in one pass, where the recipe says so.
        window_cache: Where that finds the windows that it has read before.
    """

    recipe: Recipe
    encoder: TokenEncoder
    load_context_encoder: Callable[[], TokenEncoder]
    token_form: TokenForm = DEFAULT_FORM
    load_shared_layers: Callable[[], SharedLayers] | None = None
    window_cache: WindowCache | None = None

    @cached_property
    def context_encoder(self) -> TokenEncoder:
        """Reads windows: the encoder itself, or another with the recipe's adapter merged into it."""
        return self.load_context_encoder()

    @cached_property
    def shared_layers(self) -> SharedLayers | None:
        """Reads chunks alone and in their window in one pass; None where that takes two."""
        return None if self.load_shared_layers is None else self.load_shared_layers()

    def embed_chunks(
        self, text: str, spans: Sequence[CharSpan], *, metadata: Mapping[str, object] | None = None
    ) -> Float[Tensor, "chunks form_dim"]:
        """Embed the chunks of one document, as `ContextualEmbedding` with the same options does.

        Args:
            text: The whole document, of any length.
            spans: Characters of each chunk.
            metadata: What is known of the document, such as its title; rendered as LlamaIndex does it.

        Returns:
            One vector per span in the given order, float32 on the CPU.

        Raises:
            SpanOutOfRangeError: A span leaves the text.
            UnsupportedModelError: The model was not trained for the recipe.
        """
        lines = [f"{key}: {value}" for key, value in (metadata or {}).items()]
        head = "\n".join(lines) + "\n\n" if lines else ""
        document = ChunkedText(text, spans, head if self.recipe.head == "metadata" else "")
        if self.recipe.repeats_metadata:
            alone = [head + chunk for chunk in document.texts]
            document = ChunkedText(text, spans, document.head, alone)
        return next(self.embed_documents([document]))

    def embed_documents(self, documents: Iterable[ChunkedText]) -> Iterator[Float[Tensor, "chunks form_dim"]]:
        """Embed the chunks of many documents; a document's vectors are the same, bit by bit, in any company.

        Args:
            documents: Read lazily, some at a time.

        Yields:
            For each document one vector per chunk, float32 on the CPU. A chunk without a token, such as a
            zero-width space, has no state in any window and is embedded alone.

        Raises:
            SpanOutOfRangeError: A span leaves its text.
            UnsupportedModelError: The model was not trained for the recipe.
        """
        for vectors, _ in self._embed_all(documents, with_tokens=False):
            yield vectors

    def embed_with_tokens(self, documents: Iterable[ChunkedText]) -> Iterator[Embedded]:
        """Embed the chunks of many documents, and keep their token vectors, in the same pass.

        Args:
            documents: As for `embed_documents`.

        Yields:
            For each document its vectors, the same bits as `embed_documents` gives, and for each chunk what
            is kept of its token states; None for a chunk that no window has read. With "isolated" only a
            model that was trained to compare tokens keeps them.

        Raises:
            UnsupportedModelError: The model was not trained for the recipe.
        """
        yield from self._embed_all(documents, with_tokens=True)

    def read_tokens(self, document: ChunkedText, rows: Sequence[int]) -> list[KeptTokens]:
        """Read again what is kept of some chunks, in the windows that hold them and in no others.

        Args:
            document: As it was embedded.
            rows: Which of its chunks.

        Returns:
            The same as `embed_with_tokens` gives for these chunks.

        Raises:
            UnsupportedModelError: The model's token states mean nothing by themselves.
            EmptySpanError: A chunk holds no token.
        """
        encoder, recipe = self.context_encoder, self.recipe
        check_late_interaction(encoder.profile, encoder.insist)
        if keeps_tokens_alone(encoder, recipe):
            reading, kept_of_rows = prepare_alone(self.encoder, document, rows, recipe, self.token_form)
            read(self.encoder, reading)
            return [each.kept()[0] for each in kept_of_rows]
        tokens = encoder.tokenize(document.text)
        spans = align_tokens(document.text, tokens.starts, tokens.ends, [document.spans[row] for row in rows])
        if self.shared_layers is not None:
            return self._read_shared_tokens(self.shared_layers, document, tokens, rows)
        kept = make_span_tokens(encoder, tokens.ids, spans, self.token_form)
        windows = prepare_windows(encoder, document, tokens.ids, spans, recipe=recipe, readers=[kept])
        read(encoder, windows.only_needed())
        return kept.kept()

    def embed_query_tokens(self, query: str) -> TokenVectors:
        """Make the token vectors of a query, with the query prefix read and left out.

        Raises:
            EmptyTextError: The query has no token.
            ContextOverflowError: It is longer than the encoder reads at once.
            UnsupportedModelError: The model's token states mean nothing by themselves.
        """
        return embed_query_tokens(self.encoder, query, prefix=self.recipe.prefix("query"))

    def _embed_all(self, documents: Iterable[ChunkedText], *, with_tokens: bool) -> Iterator[Embedded]:
        self.recipe.check(self.encoder.profile, self.encoder.insist)
        remaining = iter(documents)
        while group := list(islice(remaining, _GROUP)):
            yield from self._embed_group(group, with_tokens)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts form_dim"]:
        """Embed texts alone, as documents of one chunk without context.

        Raises:
            InputError: A text carries a prefix already.
        """
        return self._embed_alone("document", texts)

    def embed_query(self, query: str) -> Float[Tensor, " form_dim"]:
        """Embed a query, with the query prefix.

        Raises:
            EmptyTextError: The query is blank.
            InputError: It carries a prefix already.
        """
        if not query.strip():
            raise EmptyTextError(f"the query is {query!r}; expected a question")
        return self._embed_alone("query", [query])[0]

    def _embed_alone(self, side: Side, texts: Sequence[str]) -> Float[Tensor, "texts form_dim"]:
        recipe = self.recipe
        own, other = recipe.prefix(side), recipe.prefix("document" if side == "query" else "query")
        check_prefixes(texts, own=own, other=other, side=side, insist=self.encoder.insist)
        prefixed = [own + text for text in texts]
        return embed_isolated(self.encoder, prefixed, options=recipe.window_options, form=recipe.form)

    def _read_shared_tokens(
        self, layers: SharedLayers, document: ChunkedText, tokens: Tokens, rows: Sequence[int]
    ) -> list[KeptTokens]:
        # Windows are cut by all chunks of the document, so all of them are found first.
        filled, spans = find_chunks(document, tokens)
        wanted = [filled.index(row) for row in rows]
        kept = keep_tokens_apart(self.encoder, tokens, spans, self.token_form)
        reading = make_document_windows(
            self.encoder, document, tokens, spans, recipe=self.recipe, readers=kept
        )
        needed = reading.only(wanted)
        needed.finish(layers.encode(needed.texts))
        return [kept[index].kept()[0] for index in wanted]

    def _embed_group(self, documents: Sequence[ChunkedText], with_tokens: bool) -> Iterator[Embedded]:
        form = self.token_form if with_tokens else None
        if self.shared_layers is not None:
            yield from self._embed_shared(self.shared_layers, documents, form)
        else:
            yield from self._embed_in_passes(documents, form)

    def _embed_shared(
        self, layers: SharedLayers, documents: Sequence[ChunkedText], form: TokenForm | None
    ) -> Iterator[Embedded]:
        """Embed documents whose chunks are read alone and in their window in one pass."""
        recipe = self.recipe
        prepared = prepare_shared(self.encoder, documents, recipe, form)
        readings = [reading for reading, _ in prepared]
        if self.window_cache is None:
            halves = read_shared(layers, readings)
        else:
            halves = [self.window_cache.read(layers, reading) for reading in readings]
        for document, (reading, rows), half in zip(documents, prepared, halves, strict=True):
            vectors = torch.empty(len(document.spans), recipe.dim or self.encoder.dim)
            tokens: list[KeptTokens | None] = [None] * len(document.spans)
            if others := sorted(set(range(len(document.spans))) - set(rows)):
                alone, _ = prepare_alone(self.encoder, document, others, recipe, None)
                vectors[others] = form_vectors(read(self.encoder, alone), recipe.form)
            if rows:
                vectors[rows] = form_vectors(half.in_context, recipe.form)
            if recipe.strategy == "blend" and rows:
                isolated = form_vectors(half.alone, recipe.form)
                spans = [document.spans[row] for row in rows]
                vectors[rows] = blend(vectors[rows], isolated, recipe.alpha, spans=spans)
            for row, reader in zip(rows, reading.readers, strict=False):
                assert isinstance(reader, SpanTokens)
                tokens[row] = reader.kept()[0]
            yield vectors, tokens

    def _embed_in_passes(
        self, documents: Sequence[ChunkedText], form: TokenForm | None
    ) -> Iterator[Embedded]:
        """Embed documents in one pass over windows, or over chunks alone, or in both."""
        recipe = self.recipe
        prepared = prepare_in_context(self.context_encoder, documents, recipe, form)
        in_context = read_all(self.context_encoder, [reading for reading, _ in prepared])
        # A blend needs every chunk alone too; else only those that no window knows.
        rows_alone = [
            sorted(set(range(len(document.spans))) - (set() if recipe.strategy == "blend" else set(rows)))
            for document, (_, rows) in zip(documents, prepared, strict=True)
        ]
        prepared_alone = [
            prepare_alone(self.encoder, document, rows, recipe, form)
            for document, rows in zip(documents, rows_alone, strict=True)
        ]
        alone = read_all(self.encoder, [reading for reading, _ in prepared_alone])
        for document, (reading, rows), context_means, others, means, (_, kept_alone) in zip(
            documents, prepared, in_context, rows_alone, alone, prepared_alone, strict=True
        ):
            vectors = torch.empty(len(document.spans), recipe.dim or self.encoder.dim)
            vectors[others] = form_vectors(means, recipe.form)
            of_windows = form_vectors(context_means, recipe.form)
            if recipe.strategy == "blend" and rows:
                spans = [document.spans[row] for row in rows]
                of_windows = blend(of_windows, vectors[rows], recipe.alpha, spans=spans)
            vectors[rows] = of_windows
            tokens: list[KeptTokens | None] = [each.kept()[0] for each in kept_alone]
            tokens = tokens or [None] * len(document.spans)
            if isinstance(reading, WindowReading) and reading.readers:
                (reader,) = reading.readers
                assert isinstance(reader, SpanTokens)
                for row, kept in zip(rows, reader.kept(), strict=True):
                    tokens[row] = kept
            yield vectors, tokens
