"""`python -m rag_embed.cli` is `rag-embed`."""

from rag_embed.cli import main

main()
