"""Add rag-embed to an existing LlamaIndex app: two lines change, and chunks know their document."""

from __future__ import annotations

from pydoc_data.topics import topics

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter

from rag_embed import ContextualEmbedding, LateChunkingNodeParser

# Two pages of the language reference that every CPython carries.
DOCUMENTS = [Document(text=topics[name], id_=name) for name in ("assert", "global")]
SPLITTER = SentenceSplitter(chunk_size=96, chunk_overlap=0)


def build_index(documents: list[Document]) -> VectorStoreIndex:
    # Before:
    #   embed_model = HuggingFaceEmbedding("sentence-transformers/all-MiniLM-L6-v2")
    #   transformations = [SPLITTER]
    # After; no other line of the app changes. The splitter stays: only the vectors get context.
    embed_model = ContextualEmbedding()
    transformations = [LateChunkingNodeParser(node_parser=SPLITTER, embed_model=embed_model)]
    return VectorStoreIndex.from_documents(
        documents, transformations=transformations, embed_model=embed_model
    )


def main() -> None:
    retriever = build_index(DOCUMENTS).as_retriever(similarity_top_k=2)
    for found in retriever.retrieve("Are assertions checked in optimized code?"):
        node = found.node
        place = f"{node.ref_doc_id}:{node.start_char_idx}-{node.end_char_idx}"
        print(f"{found.score:.3f}  {place}  {node.text[:80]!r}")


if __name__ == "__main__":
    main()
