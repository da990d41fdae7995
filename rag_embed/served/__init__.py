"""Encoders that a server computes: it gives token states, while tokenizer, windows and pooling stay here."""

from rag_embed.served.server import KEY_VARIABLE, Engine, Server

__all__ = ["KEY_VARIABLE", "Engine", "Server"]
