"""The command line, `rag-embed`. Needs the extra `cli`; torch is loaded only when something is computed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point."""
    try:
        from rag_embed.cli.app import app
    except ImportError as error:
        if error.name not in {"typer", "rich"}:
            raise
        from rag_embed.errors import MissingExtraError

        missing = MissingExtraError(
            f"the command line needs {error.name}, which is not installed; run pip install 'rag-embed[cli]'"
        )
        sys.stderr.write(f"error: {missing}\n")
        sys.exit(2)
    app()
