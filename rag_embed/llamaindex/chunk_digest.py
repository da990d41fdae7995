"""A chunk's name by its content: what tells whether a stored one is what it should be."""

from __future__ import annotations

from dataclasses import replace

from llama_index.core.schema import BaseNode
from pydantic_core import to_json

from rag_embed.stamp import ChunkStamp, hash_text

_DECISIVE = {
    "text",
    "metadata",
    "excluded_embed_metadata_keys",
    "metadata_template",
    "metadata_separator",
    "text_template",
}


def digest_chunk(node: BaseNode, fingerprint: str | None = None) -> str:
    """Name everything that a chunk's vector depends on, and what is stored beside it.

    Args:
        node: A stored chunk, or one that is not embedded yet.
        fingerprint: What the latter's stamp will carry.
    """
    stamp = ChunkStamp.from_node(node)
    if stamp is not None and fingerprint is not None:
        stamp = replace(stamp, fingerprint=fingerprint)
    # As JSON, like the store's copy; what decides the text that is embedded instead of that text, which shows
    # the difference between NaN and null.
    known = {**node.model_dump(mode="json", include=_DECISIVE), "stamp": stamp and stamp.to_text()}
    return hash_text(to_json(known, inf_nan_mode="null").decode())
