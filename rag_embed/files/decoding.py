"""Bytes of a text file as characters: what they say they are, else what they most likely are, and never less.

UTF-8, and UTF-16 and UTF-32 with a mark or with the zeros that Latin letters have in them, are recognised for
certain. All else is a guess by charset-normalizer, which needs some letters to go by: where a text has only a
few of them that are not English, it is taken for Western European (cp1252, of which Latin-1 is a part).
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from charset_normalizer import from_bytes

from rag_embed.surrogates import REPLACEMENT

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does, so it comes first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WESTERN = "cp1252"
_LIKELY = [
    *(_WESTERN, "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5hkscs", "cp949"),
]
_ASCII_LETTER = re.compile(rb"[A-Za-z]")
_FOREIGN = re.compile(rb"[\x80-\xff]")
_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_UTF8_SEQUENCE = re.compile(rb"[\xc3-\xf4][\x80-\xbf]+")
_BLANK = re.compile(r"[\s\u3000-\u3002]")
_KANJI_OR_KANA = re.compile(r"[\u3000-\u30ff\u4e00-\u9fff\uff01-\uff60]")
_KANA = re.compile(r"[\u3041-\u30ff]")
_MOST_JAPANESE = {"cp932": 1.0, "euc_jp": 0.2}
_SAMPLE_BYTES = 100_000
_FEW_LETTERS = 8
_LATIN_SHARE = 0.3
"""Of bytes that are not ASCII: European text in Latin letters has fewer, all other scripts more."""
_MIXED_WORDS = 0.7
_CLEARLY_BETTER = 0.05
_MOST_CONTROLS = 0.02
_ZEROS_OF_UTF16 = 0.3


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text out of bytes.

    Attributes:
        text: Without a byte order mark.
        assumed: The encoding, if the bytes do not prove it; None if they do.
        lost: Places that could not be decoded; each stands as U+FFFD.
    """

    text: str
    assumed: str | None = None
    lost: int = 0

    @property
    def remark(self) -> str | None:
        """What a reader of the text should know; None if nothing."""
        parts = []
        if self.assumed:
            parts.append(f"is not UTF-8 and does not say what it is; read as {self.assumed}")
        if self.lost:
            parts.append(f"{self.lost} places could not be decoded and stand as U+FFFD")
        return "; ".join(parts) + "; save it as UTF-8 if letters are wrong" if parts else None


def decode_text(data: bytes) -> Decoded | None:
    """Decode the bytes of a file; None if they are no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode(data, encoding)
    if wide := _find_wide(data):
        return _decode(data, wide)
    if _has_controls(data[:_SAMPLE_BYTES]):
        return None
    if b"\x1b$" in data:
        # Japanese mail: seven bits, so that it would pass for UTF-8.
        decoded = _decode(data, "iso2022_jp", assumed=True)
        if not decoded.lost:
            return decoded
    decoded = _decode(data, "utf-8")
    if not decoded.lost or len(_UTF8_SEQUENCE.findall(data)) > decoded.lost:
        return decoded
    return _decode(data, guess_encoding(data), assumed=True)


def guess_encoding(data: bytes) -> str:
    """Find the likeliest encoding of a text that is not UTF-8."""
    sample = b"\n".join(line for line in data.splitlines() if _FOREIGN.search(line))[:_SAMPLE_BYTES]
    letters = len(_FOREIGN.findall(sample))
    is_latin = letters < _LATIN_SHARE * len(sample)
    if not is_latin and (japanese := _find_japanese(sample)):
        return japanese
    is_latin = is_latin or len(_ASCII_LETTER.findall(sample)) > _MIXED_WORDS * letters
    if is_latin and letters < _FEW_LETTERS:
        return _WESTERN
    best = (matches := from_bytes(sample, cp_isolation=_LIKELY)).best()
    if best is None:
        return _WESTERN
    if is_latin:
        western = next((match for match in matches if _WESTERN in match.could_be_from_charset), None)
        if western is not None and western.coherence >= best.coherence - _CLEARLY_BETTER:
            return _WESTERN
    return best.encoding


def _decode(data: bytes, encoding: str, *, assumed: bool = False) -> Decoded:
    name = encoding if assumed else None
    try:
        return Decoded(data.decode(encoding), name)
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
        return Decoded(text, name, max(1, text.count(REPLACEMENT)))


def _find_wide(data: bytes) -> str | None:
    """Recognise UTF-16 without a mark: by the zeros in every second byte, else by being readable."""
    sample = data[:_SAMPLE_BYTES]
    half = len(sample) // 2
    if half == 0 or len(data) % 2:
        return None
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if others == 0 and zeros > _ZEROS_OF_UTF16 * half and _is_readable(sample, encoding):
            return encoding
    if not _has_controls(sample) or half < _FEW_LETTERS:
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        if _is_readable(sample, encoding) and _BLANK.search(sample.decode(encoding, "ignore")):
            return encoding
    return None


def _is_readable(sample: bytes, encoding: str) -> bool:
    text = sample.decode(encoding, "replace")
    if len(sample) == _SAMPLE_BYTES:
        text = text[:-1]  # it may end within a character
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)


def _has_controls(sample: bytes) -> bool:
    return b"\0" in sample or len(_CONTROLS.findall(sample)) > _MOST_CONTROLS * len(sample)


def _find_japanese(sample: bytes) -> str | None:
    """Recognise Shift-JIS and EUC-JP by their structure; a few words are enough for it."""
    for encoding, must_have in (("cp932", _KANJI_OR_KANA), ("euc_jp", _KANA)):
        try:
            text = sample.decode(encoding)
        except UnicodeDecodeError:
            continue
        foreign = [character for character in text if character > "\x7f"]
        of_script = [character for character in foreign if must_have.match(character)]
        if len(of_script) >= _MOST_JAPANESE[encoding] * len(foreign) and re.search(rb"[\x81-\xaf]", sample):
            return encoding
    return None
