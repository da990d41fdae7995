"""What a result says of the stages it went through: keys of its metadata, kept from models and stores."""

DENSE_SCORE = "dense_score"
"""Similarity of the query vector and the chunk vector."""
LEXICAL_SCORE = "lexical_score"
"""BM25 of the query's words in the chunk and in what its document says of itself."""
TOKEN_SCORE = "late_interaction_score"
"""MaxSim: mean over the query's tokens of the best cosine with a token vector of the chunk."""
RETRIEVAL_SCORE = "retrieval_score"
"""The score before reranking."""
TOKENS_FROM = "late_interaction_tokens"
"""Where the chunk's token vectors were from: "stored", or "read in its document", or "read alone"."""
SHOWN_TOKENS = "rerank_shown_tokens"
"""How much of the chunk the list prompt held, such as "24/181"; absent if nothing."""
SKIPPED = "rerank_skipped"
"""Why the first stage's order was kept; absent if it was not."""

STAGE_KEYS = (DENSE_SCORE, LEXICAL_SCORE, TOKEN_SCORE, RETRIEVAL_SCORE, TOKENS_FROM, SHOWN_TOKENS, SKIPPED)
