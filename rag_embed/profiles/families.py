"""The families that are known here, as data; `rag-embed models` and docs/models.md are made from it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag_embed.profiles.family import Family

_WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_STOCK = "tiny random checkpoint equal to transformers' own class"
_WRITTEN_OUT = (
    "tiny random checkpoint in published layout equal to attention written out per head and position"
)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="minilm",
        example="sentence-transformers/all-MiniLM-L6-v2, -L12-v2",
        architectures=("bert",),
        names=r"minilm",
        dims=(384,),
        max_tokens=512,
        licence="Apache-2.0",
        tested="real weights (L6) equal to sentence-transformers on 1,000 texts; " + _STOCK,
        note="embedded; trained at 256 tokens",
    ),
    Family(
        name="mpnet",
        example="sentence-transformers/all-mpnet-base-v2",
        architectures=("mpnet",),
        names=r"",
        dims=(768,),
        max_tokens=512,
        licence="Apache-2.0",
        tested="weights tested: alone equal to sentence-transformers, late chunks to transformers' states; "
        "hybrid search, late interaction, adapter training; " + _STOCK,
    ),
    Family(
        name="e5-instruct",
        example="intfloat/multilingual-e5-large-instruct",
        architectures=("xlm-roberta",),
        names=r"e5-large-instruct",
        dims=(1024,),
        max_tokens=512,
        licence="MIT",
        tested="prefixes; the architecture as multilingual-e5",
        query_prefix=_WEB_SEARCH + " ",
        note="another task needs another query_prefix",
    ),
    Family(
        name="multilingual-e5",
        example="intfloat/multilingual-e5-small, -base, -large",
        architectures=("bert", "xlm-roberta"),
        names=r"multilingual-e5-(small|base|large)",
        dims=(384, 768, 1024),
        max_tokens=512,
        licence="MIT",
        tested=_STOCK,
        query_prefix="query: ",
        document_prefix="passage: ",
    ),
    Family(
        name="e5",
        example="intfloat/e5-small-v2, -base-v2, -large-v2",
        architectures=("bert",),
        names=r"(^|[/_])e5-(small|base|large)",
        dims=(384, 768, 1024),
        max_tokens=512,
        licence="MIT",
        tested=_STOCK,
        query_prefix="query: ",
        document_prefix="passage: ",
    ),
    Family(
        name="gte-modernbert",
        example="Alibaba-NLP/gte-modernbert-base",
        architectures=("modernbert",),
        names=r"gte-modernbert",
        dims=(768,),
        max_tokens=8192,
        licence="Apache-2.0",
        tested=_STOCK,
        pooling="cls",
    ),
    Family(
        name="gte",
        example="thenlper/gte-small, -base, -large",
        architectures=("bert",),
        names=r"(^|[/_])gte-(small|base|large)",
        dims=(384, 768, 1024),
        max_tokens=512,
        licence="MIT",
        tested=_STOCK,
    ),
    Family(
        name="modernbert-embed",
        example="nomic-ai/modernbert-embed-base",
        architectures=("modernbert",),
        names=r"modernbert-embed",
        dims=(768,),
        max_tokens=8192,
        licence="Apache-2.0",
        tested=_STOCK,
        query_prefix="search_query: ",
        document_prefix="search_document: ",
        matryoshka_dims=(256, 768),
    ),
    Family(
        name="pplx-embed-context-v1",
        example="perplexity-ai/pplx-embed-context-v1-0.6b, -4b",
        architectures=("bidirectional_pplx_qwen3",),
        names=r"context",
        dims=(1024, 2560),
        max_tokens=32768,
        licence="MIT",
        tested=_WRITTEN_OUT,
        matryoshka_dims=(128, 256, 512, 1024, 2560),
        precisions=("float", "int8", "binary"),
        separator="<|endoftext|>",
        is_unit_length=False,
        is_float16_safe=False,
    ),
    Family(
        name="pplx-embed-v1",
        example="perplexity-ai/pplx-embed-v1-0.6b, -4b",
        architectures=("bidirectional_pplx_qwen3",),
        names=r"",
        dims=(1024, 2560),
        max_tokens=32768,
        licence="MIT",
        tested=_WRITTEN_OUT,
        matryoshka_dims=(128, 256, 512, 1024, 2560),
        precisions=("float", "int8", "binary"),
        is_unit_length=False,
        is_float16_safe=False,
        known_modules=("FlexibleQuantizer",),
    ),
    Family(
        name="pplx-embed-v2-context",
        example="perplexity-ai/pplx-embed-v2-context-9b-preview",
        architectures=("pplx_contextual_qwen3_5",),
        names=r"",
        dims=(2048,),
        max_tokens=32768,
        licence="MIT",
        tested="prefixes and separator, on a checkpoint of v1's architecture",
        query_prefix="[Q] ",
        document_prefix="[D] ",
        matryoshka_dims=(1024, 2048),
        precisions=("float", "int8"),
        separator="<|chunk_sep|>",
        is_unit_length=False,
        is_float16_safe=False,
        note="weights are not loaded: its architecture is remote code and nothing here stands for it",
    ),
    Family(
        name="jina-v1",
        example="jinaai/jina-embedding-s-en-v1, -b-en-v1, -l-en-v1",
        architectures=("t5",),
        names=r"",
        dims=(512, 768, 1024),
        max_tokens=512,
        licence="Apache-2.0",
        tested=_STOCK,
        is_float16_safe=False,
    ),
    Family(
        name="jina-v2",
        example="jinaai/jina-embeddings-v2-small-en, -base-en",
        architectures=("jina-bert",),
        names=r"",
        dims=(512, 768),
        max_tokens=8192,
        licence="Apache-2.0",
        tested=_WRITTEN_OUT,
        note="own module; the hub's remote code is not run",
    ),
    Family(
        name="jina-v3",
        example="jinaai/jina-embeddings-v3-hf",
        architectures=("jina_embeddings_v3",),
        names=r"",
        dims=(1024,),
        max_tokens=8192,
        licence="CC-BY-NC-4.0",
        tested=_STOCK,
        matryoshka_dims=(32, 64, 128, 256, 512, 768, 1024),
        note="backbone only: its task adapters are not loaded, merge one into the weights first",
    ),
    Family(
        name="e2rank",
        example="Alibaba-NLP/E2Rank-0.6B, -4B, -8B",
        architectures=("qwen3",),
        names=r"e2rank",
        dims=(1024, 2560, 4096),
        max_tokens=32768,
        licence="Apache-2.0",
        tested=_STOCK,
        pooling="last-token",
        is_causal=True,
        query_prefix=_WEB_SEARCH,
        end_token="<|endoftext|>",
        list_prompt="e2rank",
        note="reranks with its own list prompt",
    ),
    Family(
        name="qwen3-embedding",
        example="Qwen/Qwen3-Embedding-0.6B, -4B, -8B",
        architectures=("qwen3",),
        names=r"qwen3-embedding",
        dims=(1024, 2560, 4096),
        max_tokens=32768,
        licence="Apache-2.0",
        tested=_STOCK,
        pooling="last-token",
        is_causal=True,
        query_prefix=_WEB_SEARCH,
        matryoshka_dims=(32, 64, 128, 256, 512, 768, 1024, 2560, 4096),
        end_token="<|endoftext|>",
        note="another task needs another query_prefix",
    ),
)

GENERIC = Family(
    name="sentence-transformers",
    example="any folder or id in its layout",
    architectures=(),
    names="",
    dims=(),
    max_tokens=1_000_000,
    licence="see the model's card",
    tested="BERT, RoBERTa, XLM-R, CamemBERT, MPNet, DistilBERT: " + _STOCK,
    note="pooling, prompts, length and similarity are read from its files",
)
"""What holds for a checkpoint of no known family."""

MULTI_VECTOR = Family(
    name="multi-vector",
    example="layouts of sentence-transformers' MultiVectorEncoder, PyLate and Stanford's ColBERT",
    architectures=(),
    names="",
    dims=(),
    max_tokens=1_000_000,
    licence="see the model's card",
    tested="BERT, ModernBERT, MPNet, XLM-R: tiny random checkpoint equal to sentence-transformers' own class",
    note="head, prefixes, query expansion and skipped words are read from its files; the vector of a text is "
    "the mean of its token vectors, for a first stage only",
)
"""What holds for a checkpoint that was trained to compare tokens, whatever its encoder."""


def find_family(architecture: str, names: Sequence[str]) -> Family:
    """The first family of this architecture whose pattern one of the names contains; else `GENERIC`."""
    for family in FAMILIES:
        if architecture in family.architectures and any(
            re.search(family.names, name, re.IGNORECASE) for name in (*names, "")
        ):
            return family
    return GENERIC
