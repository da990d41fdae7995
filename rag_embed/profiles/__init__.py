"""What a checkpoint says about how it was trained, read from its own files, as data."""

from rag_embed.profiles.discovery import EMBEDDED_MODEL, locate_checkpoint
from rag_embed.profiles.profile import Profile, read_profile

__all__ = ["EMBEDDED_MODEL", "Profile", "locate_checkpoint", "read_profile"]
