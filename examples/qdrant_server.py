"""An app on a Qdrant server: tenants, filters, reranking by stored vectors.

QDRANT_URL (and QDRANT_API_KEY) name the server; without them Qdrant's local mode in memory takes its place.
"""

from __future__ import annotations

import os

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, ListwiseRerank, QdrantChunkStore

DOCUMENTS = [
    Document(text="Leave requests go to the team lead.", id_="a-leave", metadata={"tenant": "acme"}),
    Document(text="Travel is booked at the front desk.", id_="a-travel", metadata={"tenant": "acme"}),
    Document(text="Leave requests go to the works council.", id_="b-leave", metadata={"tenant": "bolt"}),
]


def open_store(embed_model: ContextualEmbedding, collection: str) -> QdrantChunkStore:
    url = os.environ.get("QDRANT_URL")
    place = {"url": url, "api_key": os.environ.get("QDRANT_API_KEY")} if url else {"location": ":memory:"}
    return QdrantChunkStore(
        collection,
        tenant_key="tenant",  # one part of the search graph per tenant
        fingerprint=embed_model.fingerprint(),  # refuse a collection that another model made
        return_vectors=True,  # the reranker compares stored vectors: let them come with the results
        **place,
    )


def main(collection: str = "rag-embed-example") -> None:
    embed_model = ContextualEmbedding()
    parser = LateChunkingNodeParser(embed_model=embed_model)
    with open_store(embed_model, collection) as store:
        for document in DOCUMENTS:
            # Running it again, or with a new text, leaves neither doubles nor orphans.
            store.replace_document(document.node_id, parser.get_nodes_from_documents([document]))
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
        engine = index.as_retriever(
            similarity_top_k=20, filters=MetadataFilters(filters=[MetadataFilter(key="tenant", value="acme")])
        )
        question = "Who approves my leave?"
        reranker = ListwiseRerank(embed_model=embed_model, top_n=2)
        for found in reranker.postprocess_nodes(engine.retrieve(question), query_str=question):
            print(f"{found.score:.3f}  {found.node.ref_doc_id}  {found.node.get_content()!r}")


if __name__ == "__main__":
    main()
