"""The command line, `rag-embed`. Needs the extra `cli`; torch is loaded only when something is computed."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line; the entry point."""
    try:
        from rag_embed.cli.app import app
        from rag_embed.cli.failing import ending_on_signals
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    except ImportError as error:
        if error.name not in {"typer", "rich", "charset_normalizer"}:
            raise
        from rag_embed.errors import MissingExtraError

        missing = MissingExtraError(
            f"the command line needs {error.name}, which is not installed; run pip install 'rag-embed[cli]'"
        )
        sys.stderr.write(f"error: {missing}\n")
        sys.exit(2)
    # Where a terminal lacks a character it shows the character's number; the command does not end by it.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with ending_on_signals():
        app()
