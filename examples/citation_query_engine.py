"""Answers with citations by LlamaIndex's own engine, over passages that know their document."""

from __future__ import annotations

from pydoc_data.topics import topics

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import CitationQueryEngine

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore

NAMES = ("assert", "global", "nonlocal", "del", "return")
DOCUMENTS = [Document(text=topics[name], id_=name) for name in NAMES if name in topics]


def main(llm: LLM | None = None) -> None:
    embed_model = ContextualEmbedding(strategy="late")
    parser = LateChunkingNodeParser(
        node_parser=SentenceSplitter(chunk_size=96, chunk_overlap=0), embed_model=embed_model
    )
    store = QdrantChunkStore("topics", location=":memory:", lexical=True)
    index = VectorStoreIndex.from_documents(
        DOCUMENTS,
        transformations=[parser],
        embed_model=embed_model,
        storage_context=StorageContext.from_defaults(vector_store=store),
    )
    # Any LLM of LlamaIndex answers; MockLLM repeats its prompt, which shows what an LLM would read.
    engine = CitationQueryEngine.from_args(
        index,
        llm=llm or MockLLM(),
        retriever=index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3),
        citation_chunk_size=256,
    )
    response = engine.query("Are assertions checked in optimized code?")
    print(str(response)[-200:])
    for number, source in enumerate(response.source_nodes, start=1):
        print(f"[{number}] {source.node.ref_doc_id}  {source.node.get_content()[:80]!r}")
    store.close()


if __name__ == "__main__":
    main()
