"""Conversations over an index, without a user interface: command line, web page and agents are put on top.

Importing the package loads nothing; take what you need from its modules:

- `searching.Searcher` finds passages, `passages.Passage` says where they stand and why they were found;
- `documents` reads and lists documents out of a store;
- `conversation.Conversation` answers, at once or word by word, and `turns.Turn` is what came of a question;
- `quotes` picks the sentences that answer, `follow_ups` completes questions that lean on earlier ones;
- `llms.load_llm` makes any LLM of LlamaIndex, `filters.parse_filters` reads "key=value".
"""
