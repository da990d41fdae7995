"""Search by meaning and by words at once, then let the question's tokens have the last word."""

from __future__ import annotations

import sys
from pathlib import Path

from llama_index.core import SimpleDirectoryReader, StorageContext, VectorStoreIndex

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank, QdrantChunkStore


def main(folder: str, question: str, data: str = "hybrid-data") -> None:
    # One pass over the text: chunks in the context of their documents, words and token vectors beside them.
    embed_model = ContextualEmbedding(strategy="late")
    store = QdrantChunkStore("docs", path=data, lexical=True, tokens=True)
    documents = SimpleDirectoryReader(folder, filename_as_id=True).load_data()
    index = VectorStoreIndex.from_documents(
        documents,
        transformations=[LateChunkingNodeParser(embed_model=embed_model)],
        embed_model=embed_model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    found = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=50).retrieve(question)
    rerank = ListwiseRerank(embed_model=embed_model, vector_store=store, top_n=3)
    for hit in rerank.postprocess_nodes(found, query_str=question):
        stages = {key: round(value, 2) for key, value in hit.node.metadata.items() if key.endswith("_score")}
        print(round(hit.score or 0.0, 3), Path(hit.node.metadata["file_path"]).name, stages)
        print("   ", hit.node.get_content()[:80].replace("\n", " "))
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
