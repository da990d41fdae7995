"""What a checkpoint says about how it was trained, read from its own files, as data."""

from rag_embed.profiles.catalogue import CatalogueRow, list_families, render_markdown
from rag_embed.profiles.discovery import EMBEDDED_MODEL, locate_checkpoint
from rag_embed.profiles.families import FAMILIES, GENERIC
from rag_embed.profiles.family import Family
from rag_embed.profiles.profile import Profile, read_profile

__all__ = [
    "EMBEDDED_MODEL",
    "FAMILIES",
    "GENERIC",
    "CatalogueRow",
    "Family",
    "Profile",
    "list_families",
    "locate_checkpoint",
    "read_profile",
    "render_markdown",
]
