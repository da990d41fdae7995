"""Folders as documents whose ids stay the same wherever the folder lies."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_index.core import SimpleDirectoryReader
from llama_index.core.schema import Document
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters

from rag_embed.errors import InputError
from rag_embed.files.decoding import decode_text
from rag_embed.files.faults import describe
from rag_embed.files.formats import FORMATS, PAGE_KEY, Part, check_readable, identify
from rag_embed.llamaindex.pages import join_pages
from rag_embed.surrogates import mend_surrogates

SOURCE_KEY = "source"
"""Metadata key of the folder's name, by which the documents of one folder are told from those of others."""

PYDOC_SOURCE = "pydoc"

_HIDDEN_METADATA = ["file_name", SOURCE_KEY]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one source, and what was not.

    Attributes:
        source: Name of the folder; document ids begin with it.
        folder: Where it lies; None if it is none.
        is_named: Whether its name was given, rather than being the folder's own.
        documents: In the order of their ids, each with some text.
        failed: Files and folders that could not be read, by document id, and why.
        skipped: What is no document, by document id, and why: binary files, links to folders.
        empty: Files that were read and hold no text, by document id.
        remarks: What to know of a document's text, by document id.
        bare: Folders without any content, as a mount has that is not there.
    """

    source: str
    folder: Path | None = None
    is_named: bool = False
    documents: list[Document] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    empty: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    bare: list[str] = field(default_factory=list)

    @property
    def scope(self) -> MetadataFilters:
        """Which stored documents are this source's."""
        return MetadataFilters(filters=[MetadataFilter(key=SOURCE_KEY, value=self.source)])

    def keeps(self, document_id: str) -> bool:
        """Whether a stored document that was not read this time stays: nobody knows that it is gone.

        So it is with all that lies in what could not be read, in a folder without any content, and with
        everything if no document was found at all.
        """
        if not self.documents:
            return True
        unread = (*self.failed, *self.skipped, *self.bare)
        return any(
            document_id == name or document_id.startswith((f"{name}/", f"{name}_part_")) for name in unread
        )


def read_folder(folder: Path, *, name: str | None = None, leave_out: Sequence[Path] = ()) -> Reading:
    """Read all text in a folder and the folders in it.

    A document's id is its path from the folder's name on, "docs/guide/setup.md", so that a moved folder
    is the same corpus. Hidden files are left out; links to folders are not followed.

    Args:
        folder: Any folder.
        name: What to call it instead of by its own name.
        leave_out: Folders inside it that are not read, such as the store's.

    Raises:
        InputError: There is no such folder.
    """
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder; expected one with documents")
    reading = Reading(name or spell(root.name) or "root", root, is_named=name is not None)
    _FolderReader(reading, root, leave_out).read()
    return reading


def read_pydoc() -> Reading:
    """Read the language reference that every CPython carries for its `help()`."""
    from pydoc_data.topics import topics

    documents = [
        _make_document(Part(topics[name]), f"{PYDOC_SOURCE}/{name}", PYDOC_SOURCE) for name in sorted(topics)
    ]
    return Reading(PYDOC_SOURCE, documents=documents)


def spell(name: str) -> str:
    r"""Write a file's name as text: bytes of it that are no UTF-8 as `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _FolderReader:
    """Reads one folder, file by file; a file that fails is noted, and the next one read."""

    def __init__(self, reading: Reading, root: Path, leave_out: Sequence[Path]) -> None:
        self._reading = reading
        self._root = root
        self._source = reading.source
        self._leave_out = {place.expanduser().resolve() for place in leave_out}
        self._ids: set[str] = set()
        # Warns of the missing package once per file; what that means for a file is said in `skipped`.
        logging.getLogger("llama_index.core.readers.file.base").setLevel(logging.ERROR)
        logging.getLogger("pypdf").setLevel(logging.CRITICAL)
        self._foreign = SimpleDirectoryReader.supported_suffix_fn().keys() - FORMATS.keys() - {".csv"}

    def read(self) -> None:
        """Read all files into the reading."""
        for path in self._list_files():
            file_id = self._name(path)
            if file_id in self._ids:
                self._reading.failed[file_id] = "another file's name is spelled like this one's; rename one"
                continue
            self._ids.add(file_id)
            try:
                documents = self._read_file(path, file_id)
            except Exception as error:  # readers are third-party code and raise what they like
                self._reading.failed[file_id] = describe(error)
                continue
            self._reading.documents.extend(documents)

    def _name(self, path: Path | str) -> str:
        relative = spell(Path(path).relative_to(self._root).as_posix())
        return self._source if relative == "." else f"{self._source}/{relative}"

    def _list_files(self) -> list[Path]:
        files: list[Path] = []
        for folder, folder_names, file_names in os.walk(self._root, onerror=self._note_folder):
            if not folder_names and not file_names:
                self._reading.bare.append(self._name(folder))
            seen = sorted(name for name in folder_names if not name.startswith("."))
            inner = [Path(folder, name) for name in seen]
            for path in inner:
                if path.is_symlink():
                    self._reading.skipped[self._name(path)] = "a link to a folder; links are not followed"
            folder_names[:] = [p.name for p in inner if p not in self._leave_out and not p.is_symlink()]
            files += [Path(folder, name) for name in sorted(file_names) if not name.startswith(".")]
        return files

    def _note_folder(self, error: OSError) -> None:
        self._reading.failed[self._name(error.filename)] = f"the folder cannot be read: {error.strerror}"

    def _read_file(self, path: Path, file_id: str) -> list[Document]:
        if not stat.S_ISREG(path.stat().st_mode):
            self._reading.skipped[file_id] = "neither a file nor a folder"
            return []
        if path.suffix.lower() in self._foreign:
            return self._keep_text(_read_foreign(path), file_id)
        data = path.read_bytes()
        kind = identify(data, path.suffix.lower())
        check_readable(kind)
        if file_format := FORMATS.get(kind):
            return self._keep_text(file_format.read_parts(data), file_id)
        decoded = decode_text(data)
        if decoded is None:
            self._reading.skipped[file_id] = f"binary, and nothing here reads {path.suffix or 'it'}"
            return []
        if decoded.remark:
            self._remark(file_id, decoded.remark)
        return self._keep_text([Part(decoded.text)], file_id)

    def _keep_text(self, parts: Sequence[Part], file_id: str) -> list[Document]:
        """Make a document of the parts that hold text; say of the others that they do not."""
        pages = [_make_document(part, file_id, self._source) for part in parts if part.text.strip()]
        lost = sum(mend_surrogates(part.text)[1] for part in parts)
        if lost:
            self._remark(file_id, f"{lost} halves of characters, which no text may hold, stand as U+FFFD")
        if not pages:
            is_paged = any(PAGE_KEY in part.metadata for part in parts)
            scan = "; if it is a scan, it has to go through OCR first" if is_paged else ""
            self._reading.empty[file_id] = f"holds no text{scan}"
        elif blank := len(parts) - len(pages):
            self._remark(file_id, f"{blank} of its {len(parts)} parts hold no text")
        return join_pages(pages)

    def _remark(self, file_id: str, remark: str) -> None:
        before = self._reading.remarks.get(file_id)
        self._reading.remarks[file_id] = f"{before}; {remark}" if before else remark


def _read_foreign(path: Path) -> list[Part]:
    """Read what only LlamaIndex's own readers know, where they are installed."""
    reader = SimpleDirectoryReader(
        input_files=[str(path)], raise_on_error=True, file_metadata=lambda _: dict[str, str]()
    )
    return [
        Part(document.text, {key: str(value) for key, value in document.metadata.items()})
        for document in reader.load_data()
    ]


def _make_document(part: Part, file_id: str, source: str) -> Document:
    # No dates and no size: they change without the text, and would make it look changed.
    metadata = {"file_path": file_id, "file_name": file_id.rsplit("/", 1)[-1], SOURCE_KEY: source}
    own: Mapping[str, str] = {key: mend_surrogates(value)[0] for key, value in part.metadata.items()}
    document = Document(text=mend_surrogates(part.text)[0], id_=file_id, metadata={**own, **metadata})
    for keys in (document.excluded_embed_metadata_keys, document.excluded_llm_metadata_keys):
        keys += [key for key in _HIDDEN_METADATA if key not in keys]
    return document
