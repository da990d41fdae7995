"""What an embedding model has looked up and loaded, so that a question costs no look at the disk."""

from __future__ import annotations

from typing import Any

from typing_extensions import Self

from rag_embed.chunk_embedder import ChunkEmbedder
from rag_embed.loading import load_embedder
from rag_embed.recipe import Recipe


class Lookup:
    """The last recipe, which remembers its checkpoint, and the embedder that was loaded for it.

    Whoever asks for another gets another, so copies of a model may share one; a deep copy starts anew,
    because weights are shared and never copied.
    """

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._loaded: tuple[object, ChunkEmbedder] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def recipe(self, wanted: Recipe) -> Recipe:
        """The same recipe, as it was looked up before."""
        known = self._recipe  # another thread may ask for another at the same time
        if known is None or known != wanted:
            known = self._recipe = wanted
        return known

    def embedder(self, recipe: Recipe, **options: Any) -> ChunkEmbedder:
        """What `load_embedder` gives for a recipe and options.

        Raises:
            MissingExtraError: The embedded model is not installed.
            UnsupportedModelError: The checkpoint cannot be used.
        """
        wanted = recipe, options
        loaded = self._loaded
        if loaded is None or loaded[0] != wanted:
            loaded = self._loaded = wanted, load_embedder(recipe, **options)
        return loaded[1]
