"""The pages of a file as one document.

Many readers make a document of each page, slide or section, and LlamaIndex inserts, refreshes, caches and
hands to its workers one document at a time. A page whose file is spread over several documents is therefore
read without the others in most of these ways. Joined beforehand, a file is one document in all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
)

_SEPARATOR = "\n\n"
_START, _OWN = "start", "metadata"


def join_pages(documents: Sequence[Document], *, key: str = "file_path") -> list[Document]:
    """Make one document of all that come from one file, and name it after the file.

    The text is that of the pages with a blank line between them. `LateChunkingNodeParser` cuts each page by
    itself, so that every chunk has the metadata of its page, such as "page_label", and reads all of them in
    one context. Since the ids are no longer random, the same files are the same documents in the next run.

    Args:
        documents: As a reader gives them. Those without the key, and images, are handed on as they are.
        key: Metadata key that names the file.

    Returns:
        One document per file, in the order in which the files first occur.
    """
    groups: dict[Hashable, list[Document]] = {}
    for document in documents:
        value = None if isinstance(document, ImageDocument) else document.metadata.get(key)
        # What belongs to no file is a group of its own, told from the files by being a pair.
        groups.setdefault(("id", document.node_id) if value is None else str(value), []).append(document)
    return [
        _join(name, pages) if isinstance(name, str) else document
        for name, pages in groups.items()
        for document in pages[:1]
    ]


def _join(name: str, pages: Sequence[Document]) -> Document:
    first, *others = pages
    if not others:
        return first.model_copy(update={"id_": name})
    shared = {
        key: value
        for key, value in first.metadata.items()
        if all(key in page.metadata and page.metadata[key] == value for page in others)
    }
    start = 0
    places: list[RelatedNodeInfo] = []
    for number, page in enumerate(pages, start=1):
        own = {key: value for key, value in page.metadata.items() if key not in shared}
        places.append(RelatedNodeInfo(node_id=f"{name}#{number}", metadata={_START: start, _OWN: own}))
        start += len(page.text) + len(_SEPARATOR)

    def all_of(field: str) -> list[str]:
        return list(dict.fromkeys(hidden for page in pages for hidden in getattr(page, field)))

    return Document(
        text=_SEPARATOR.join(page.text for page in pages),
        id_=name,
        metadata=shared,
        excluded_embed_metadata_keys=all_of("excluded_embed_metadata_keys"),
        excluded_llm_metadata_keys=all_of("excluded_llm_metadata_keys"),
        metadata_template=first.metadata_template,
        metadata_separator=first.metadata_separator,
        text_template=first.text_template,
        # No metadata mode shows them, and no splitter copies them to every chunk.
        relationships={**first.relationships, NodeRelationship.CHILD: list(places)},
    )


def find_split_file(documents: Sequence[BaseNode]) -> str | None:
    """Find a file whose pages are documents of their own, as readers of PDF and slides make them."""
    first_labels: dict[str, object] = {}
    for document in documents:
        file, label = document.metadata.get("file_path"), document.metadata.get("page_label")
        if file is not None and label is not None and first_labels.setdefault(str(file), label) != label:
            return str(file)
    return None


def split_pages(document: BaseNode) -> list[tuple[int, BaseNode]]:
    """Take a joined document apart again: each page under the document's id, and where it starts.

    Any other document is its only page.
    """
    related = document.relationships.get(NodeRelationship.CHILD)
    places = [page for page in related if _OWN in page.metadata] if isinstance(related, list) else []
    if not places:
        return [(0, document)]
    text = document.get_content(metadata_mode=MetadataMode.NONE)
    starts = [int(place.metadata[_START]) for place in places]
    ends = [start - len(_SEPARATOR) for start in starts[1:]] + [len(text)]
    pages: list[tuple[int, BaseNode]] = []
    for place, start, end in zip(places, starts, ends, strict=True):
        metadata = {**document.metadata, **place.metadata[_OWN]}
        page = document.model_copy(update={"metadata": metadata, "relationships": {}})
        page.set_content(text[start:end])
        pages.append((start, page))
    return pages
