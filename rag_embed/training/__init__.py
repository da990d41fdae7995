"""Training of adapters that teach an encoder to use a document's context."""
