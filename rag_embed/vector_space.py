"""The fingerprint: which vectors may be compared with each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from rag_embed.adapter import Adapter
from rag_embed.late_chunking import Strategy
from rag_embed.profiles import Profile

# Raised whenever the same options give other vectors than before; see "Vectors changed" in the changelog.
_VECTOR_REVISION = 3


def name_vector_space(
    profile: Profile,
    strategy: Strategy,
    *,
    adapter: Adapter | None,
    options: Mapping[str, object],
    prefixes: tuple[str, str],
) -> str:
    """Name the space of all vectors that are made alike.

    Args:
        profile: The checkpoint.
        strategy: How chunk vectors are made.
        adapter: What is merged into the weights that read windows.
        options: Everything else that changes a vector by more than rounding.
        prefixes: Of queries and of documents.

    Returns:
        A name to read, ending in a digest of everything; it says a precision that was asked for by name, and
        the engine of a server.
    """
    content: list[object] = [
        _VECTOR_REVISION,
        profile.digest,
        {"strategy": strategy, **options},
        prefixes,
    ]
    name = f"{profile.name}@{profile.weights_sha256[:8]}"
    if adapter is not None:
        content += [adapter.sha256, adapter.scale]
        content += [adapter.shared_layers] * (adapter.shared_layers > 0)
        name += f"+{adapter.name}@{adapter.sha256[:8]}"
    named = "".join(f"-{options[name]}" for name in ("dtype", "engine") if name in options)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{name}/{strategy}{named}/{digest[:12]}"
