"""What the shipped adapters are trained on, and under which licences.

Varied domains on purpose: an adapter trained on disease pages alone loses on code. The sets are read from
$RAG_EMBED_EVAL or ../shared/eval, code from the running Python and from packages installed beside it.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from corpora.code import read_code_files
from corpora.folders import sets_folder
from corpora.pages import read_meetings, read_pages
from rag_embed.training.documents import TrainingDocument

PACKAGES = {
    "aiohttp": "Apache-2.0",
    "httpx": "BSD-3-Clause",
    "hypothesis": "MPL-2.0",
    "jinja2": "BSD-3-Clause",
    "llama_index": "MIT",
    "networkx": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "pydantic": "MIT",
    "qdrant_client": "Apache-2.0",
    "rich": "MIT",
    "sqlalchemy": "MIT",
    "tenacity": "Apache-2.0",
    "transformers": "Apache-2.0",
    "typer": "MIT",
}
"""Packages whose code is trained on, all of them installed by `make install`, with their licences."""
FILES_PER_PACKAGE = 60


@dataclass(frozen=True, slots=True)
class Source:
    """What the card says of a source."""

    name: str
    licence: str
    documents: int
    questions: int
    content: str


def read_sources() -> tuple[list[TrainingDocument], list[Source]]:
    """All documents, and what the card says of them."""
    folder = sets_folder()
    parts = [
        (
            "CC BY 4.0",
            "MedQuAD: sections of disease pages; in most, the name stands in the title alone",
            read_pages(folder / "medquad_train", source="medquad", anonymised=0.6, headed=0.7),
        ),
        (
            "MIT",
            "QMSum: meetings and questions on them",
            read_meetings(folder / "qmsum_train", source="qmsum"),
        ),
        (
            "CC BY 4.0, ODC-By",
            "SciFact, training claims: whole abstracts, where context has nothing to give",
            read_pages(folder / "scifact", source="scifact", anonymised=0.0, headed=0.5),
        ),
        (
            "PSF-2.0",
            "Python's standard library: docstrings and the code without them",
            read_code_files(Path(sysconfig.get_paths()["stdlib"]), source="stdlib", limit=400),
        ),
        (
            ", ".join(sorted(set(PACKAGES.values()))),
            "code of " + ", ".join(f"{name} {_version_of(name)}" for name in PACKAGES if find_spec(name)),
            [
                document
                for name in PACKAGES
                for document in read_code_files(_folder_of(name), source="packages", limit=FILES_PER_PACKAGE)
            ],
        ),
    ]
    sources = [
        Source(part[0].source, licence, len(part), sum(len(d.pairs) for d in part), content)
        for licence, content, part in parts
    ]
    return [document for _, _, part in parts for document in part], sources


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"package {package} is not installed; run make install, then pip install {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def _version_of(package: str) -> str:
    return version({"llama_index": "llama-index-core"}.get(package, package))
