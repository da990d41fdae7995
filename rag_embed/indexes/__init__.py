"""An index on disk or on a server: opened with the model it was made with, filled from folders."""

DEFAULT_CHUNK_SIZE = 256
"""Tokens of a chunk, unless something else is asked for."""
