"""A LlamaIndex IngestionPipeline with docstore and cache: only what changed is embedded again."""

from __future__ import annotations

from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.storage.docstore import SimpleDocumentStore

from rag_embed import ContextualEmbedding, LateChunkingNodeParser, QdrantChunkStore

DOCUMENTS = {
    "cafe": "The café opens at seven. Its owner comes from Trieste.",
    "ferry": "The ferry leaves every twenty minutes. Bicycles travel free.",
}


def make_documents(texts: dict[str, str]) -> list[Document]:
    # Ids of one's own are what makes updates possible: random ones would make every run a new corpus.
    return [Document(text=text, id_=name) for name, text in texts.items()]


def main() -> None:
    embed_model = ContextualEmbedding()
    with QdrantChunkStore("pipeline", location=":memory:", fingerprint=embed_model.fingerprint()) as store:
        pipeline = IngestionPipeline(
            # The parser embeds what it cuts, so that the cache's key for both is the whole document. Behind
            # [LateChunkingNodeParser(), embed_model] it would be the chunks' texts, whatever stood between.
            transformations=[LateChunkingNodeParser(embed_model=embed_model)],
            vector_store=store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
            cache=IngestionCache(),
        )
        for title, texts in (
            ("first run", DOCUMENTS),
            ("the same again", DOCUMENTS),
            ("one document changed", DOCUMENTS | {"cafe": "The café opens at eight."}),
        ):
            before = embed_model.encoder.token_count
            nodes = pipeline.run(documents=make_documents(texts))
            tokens = embed_model.encoder.token_count - before
            print(f"{title}: {len(nodes)} chunks embedded ({tokens} tokens), {store.count()} in the store")


if __name__ == "__main__":
    main()
