"""A chatbot in the terminal over a folder. With an LLM it answers, without one it quotes; both cite.

python examples/terminal_chatbot.py FOLDER [package.module:LLMClass [key=value ...]]
"""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core.node_parser import SentenceSplitter

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore
from rag_embed.chat.conversation import Conversation, converse
from rag_embed.chat.llms import load_llm
from rag_embed.chat.searching import Searcher
from rag_embed.files.reading import read_folder
from rag_embed.llamaindex.corpus import Corpus


def main(folder: str, llm_name: str | None = None, *llm_arguments: str) -> None:
    embed_model = ContextualEmbedding()
    parser = LateChunkingNodeParser(node_parser=SentenceSplitter(chunk_size=256, chunk_overlap=0))
    reading = read_folder(Path(folder))
    # Stored vectors come back with the results, because the reranker compares those.
    with QdrantChunkStore("chatbot", location=":memory:", return_vectors=True) as store:
        # With path= or url= instead of memory, the next start would embed nothing again.
        corpus = Corpus(store, embed_model=embed_model, node_parser=parser)
        corpus.sync(reading.documents, scope=reading.scope)
        llm = load_llm(llm_name, llm_arguments) if llm_name else None
        conversation = Conversation(Searcher(store, embed_model, top_k=8), llm)
        for turn in converse(conversation, sys.stdin):
            print(turn.answer)
            for citation in turn.citations:
                print(f"[{citation.number}] {citation.place}")
            if turn.error:
                print(f"error: {turn.error}")
            if turn.left_out:
                print(f"({len(turn.left_out)} passages did not fit into the LLM's context)")


if __name__ == "__main__":
    main(*sys.argv[1:])
