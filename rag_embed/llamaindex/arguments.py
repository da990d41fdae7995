"""Arguments that people bring from other components: taken where they mean the same, else refused.

pydantic ignores what it does not know, or refuses it without a hint. An ignored `model_name=` would embed
with another model than the one that was asked for, and nothing would say so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index.core.node_parser.node_utils import default_id_func
from pydantic import BaseModel

from rag_embed.errors import InputError


@dataclass(frozen=True, slots=True)
class Words:
    """What others call the arguments of one of our components.

    Attributes:
        synonyms: Others' word for one of ours that means the same.
        settled: Others' word for what cannot be chosen here: the value that it has, which is taken, and what
            to do instead of asking for another one.
    """

    synonyms: Mapping[str, str]
    settled: Mapping[str, tuple[object, str]]


EMBEDDING_WORDS = Words(
    {
        "model_name": "model",
        "query_instruction": "query_prefix",
        "text_instruction": "document_prefix",
        "show_progress_bar": "show_progress",
        "truncate_dim": "dim",
    },
    {
        "max_length": (None, "no text is cut here: window_tokens= is the most tokens that are read at once"),
        "normalize": (True, "every vector has length 1 here, and cosine does not see length"),
        "cache_folder": (None, "set the environment variable HF_HUB_CACHE, or let model= be a local folder"),
        "backend": ("torch", "torch is the only one"),
        "trust_remote_code": (False, "no remote code is run; docs/models.md lists what is known without"),
        "parallel_process": (False, "give IngestionPipeline.run num_workers= instead"),
        "target_devices": (None, "device= names one; give IngestionPipeline.run num_workers= instead"),
        "pooling": (None, "the checkpoint says how it is pooled"),
        "embeddings_cache": (
            None,
            "it keys vectors by text alone, so queries, chunks and contexts would share them; use the cache "
            "of an IngestionPipeline with LateChunkingNodeParser(embed_model=...)",
        ),
        "model_kwargs": (None, "dtype= and device= are arguments of their own"),
    },
)
"""Of LlamaIndex's HuggingFaceEmbedding and of sentence-transformers."""

RERANK_WORDS = Words(
    {},
    {
        "model": (None, "the embedding model reranks too: embed_model=ContextualEmbedding(model=...)"),
        "llm": (None, "no LLM is asked: embed_model= reranks by the vectors that it made"),
        "top_k": (
            None,
            "top_n= is how many come out; how many come in is the retriever's similarity_top_k",
        ),
        "keep_retrieval_score": (True, "the first stage's score is always kept, in the node's metadata"),
    },
)
"""Of LlamaIndex's SentenceTransformerRerank and LLMRerank."""

PARSER_WORDS = Words(
    {},
    {
        "context_key": (None, "join the pages of a file beforehand: parser(join_pages(documents))"),
        "id_func": (
            default_id_func,
            "ids are made of document id, position and text, so that a second run makes them again",
        ),
    },
)
"""Of LlamaIndex's splitters, whose other arguments make the inner parser."""


def take_arguments(component: type[BaseModel], given: Any, words: Words) -> Any:
    """Translate a component's arguments into its own words.

    Args:
        component: Whose fields are known.
        given: What its constructor was called with; anything else than that is given back.
        words: Of others.

    Returns:
        The arguments under our names.

    Raises:
        InputError: An argument that is not known, cannot be chosen, or is given under two names.
    """
    if not isinstance(given, dict):
        return given
    taken: dict[str, Any] = {}
    for name, value in given.items():
        own = words.synonyms.get(name, name)
        if own in words.settled:
            only, remedy = words.settled[own]
            if value is not None and value != only:
                raise InputError(f"{component.__name__} was given {name}={value!r}; {remedy}")
        elif own not in component.model_fields:
            near = difflib.get_close_matches(own, component.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(component.model_fields)}"
            raise InputError(f"{component.__name__} knows no argument {name!r}; {hint}")
        elif taken.setdefault(own, value) != value:
            raise InputError(
                f"{component.__name__} was given {own}={taken[own]!r} and {name}={value!r}, two names of one "
                f"thing; expected {own}= alone"
            )
    return taken
