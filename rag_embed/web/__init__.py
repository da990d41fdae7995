"""The chatbot in the browser: what `rag-embed chat --web` serves. Needs the extra `web`."""
