"""Folders as documents whose ids stay the same wherever the folder lies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core import SimpleDirectoryReader
from llama_index.core.schema import Document
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters

from rag_embed.errors import InputError

SOURCE_KEY = "source"
"""Metadata key of the folder's name, by which the documents of one folder are told from those of others."""

PYDOC_SOURCE = "pydoc"

_HIDDEN_METADATA = ["file_name", SOURCE_KEY]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one source.

    Attributes:
        source: Name of the folder; document ids begin with it.
        documents: In the order of their ids.
        skipped: Files that could not be read, by document id, and why.
    """

    source: str
    documents: list[Document]
    skipped: dict[str, str]

    @property
    def scope(self) -> MetadataFilters:
        """Which stored documents are this source's; of files that could not be read nothing is forgotten."""
        filters: list[MetadataFilter | MetadataFilters] = [MetadataFilter(key=SOURCE_KEY, value=self.source)]
        if self.skipped:
            kept = list(self.skipped)
            filters.append(MetadataFilter(key="file_path", operator=FilterOperator.NIN, value=kept))
        return MetadataFilters(filters=filters)


def read_folder(folder: Path, *, leave_out: Sequence[Path] = ()) -> Reading:
    """Read all that LlamaIndex's SimpleDirectoryReader can read in a folder and the folders in it.

    A document's id is its path from the folder's name on, "docs/guide/setup.md", so that a moved folder
    is the same corpus. Hidden files are left out, and binary files that no installed reader understands.

    Args:
        folder: Any folder.
        leave_out: Folders inside it that are not read, such as the store's.

    Raises:
        InputError: There is no such folder.
    """
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder; expected one with documents")
    # Warns of the missing package once per file; what that means for a file is said in `skipped`.
    logging.getLogger("llama_index.core.readers.file.base").setLevel(logging.ERROR)
    known_suffixes = SimpleDirectoryReader.supported_suffix_fn()
    source = root.name or "root"
    documents: list[Document] = []
    skipped: dict[str, str] = {}
    for path in _list_files(root, {place.expanduser().resolve() for place in leave_out}):
        file_id = f"{source}/{path.relative_to(root).as_posix()}"
        if path.suffix.lower() not in known_suffixes and _is_binary(path):
            skipped[file_id] = (
                f"binary, and no reader for {path.suffix or 'it'} is installed; "
                "pip install llama-index-readers-file reads many kinds"
            )
            continue
        try:
            documents += _read_file(path, file_id, source)
        except Exception as error:  # readers are third-party code and raise what they like
            skipped[file_id] = f"{type(error).__name__}: {error.__cause__ or error}"
    return Reading(source, documents, skipped)


def read_pydoc() -> Reading:
    """Read the language reference that every CPython carries for its `help()`."""
    from pydoc_data.topics import topics

    documents = [
        _make_document(topics[name], f"{PYDOC_SOURCE}/{name}", PYDOC_SOURCE) for name in sorted(topics)
    ]
    return Reading(PYDOC_SOURCE, documents, {})


def _list_files(root: Path, leave_out: set[Path]) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(
            name for name in names if not name.startswith(".") and Path(folder, name) not in leave_out
        )
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _is_binary(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(8192)
    except OSError:
        return False  # reading it for good will say what is wrong


def _read_file(path: Path, file_id: str, source: str) -> list[Document]:
    from rag_embed.llamaindex.pages import join_pages  # loads torch

    reader = SimpleDirectoryReader(
        input_files=[str(path)],
        raise_on_error=True,
        file_metadata=lambda _: _metadata(file_id, source),
    )
    documents = join_pages(reader.load_data())
    for document in documents:
        _hide_metadata(document)
    return documents


def _make_document(text: str, file_id: str, source: str) -> Document:
    document = Document(text=text, id_=file_id, metadata=_metadata(file_id, source))
    _hide_metadata(document)
    return document


def _metadata(file_id: str, source: str) -> dict[str, str]:
    # No dates and no size: they change without the text, and would make it look changed.
    return {"file_path": file_id, "file_name": file_id.rsplit("/", 1)[-1], SOURCE_KEY: source}


def _hide_metadata(document: Document) -> None:
    for keys in (document.excluded_embed_metadata_keys, document.excluded_llm_metadata_keys):
        keys += [key for key in _HIDDEN_METADATA if key not in keys]
