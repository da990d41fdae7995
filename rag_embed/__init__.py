"""Contextual chunk embeddings and listwise reranking with one encoder."""
