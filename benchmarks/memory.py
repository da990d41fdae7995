"""Peak memory against document length: each contestant and length in a process of its own.

What is measured is loading and embedding alone. Text, chunk borders and the tokens of each chunk are made
here and handed over as a file, so that no tokenisation but the contestant's own counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.corpus import count_tokens, read_text
from benchmarks.report import ROOT, make_parser, write_report
from rag_embed import CharSpan, Encoder, embed_late, load_encoder
from rag_embed.profiles import EMBEDDED_MODEL, locate_checkpoint

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OURS = "rag-embed late"
CHONKIE = "chonkie LateChunker (token states of the whole document)"
SBERT = "sentence-transformers token embeddings (truncates at 512 tokens)"
LENGTHS = (1_000, 10_000, 50_000, 200_000)
REFERENCE_LENGTH = 10_000
QUICK_LENGTHS = (600, 1_200)
WARM_UP_TOKENS = 600
CHUNK_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Task:
    """A document to embed.

    Attributes:
        text: The document.
        borders: First character of each chunk, and one past its last.
        token_counts: Tokens of each chunk.
    """

    text: str
    borders: list[tuple[int, int]]
    token_counts: list[int]

    @property
    def spans(self) -> list[CharSpan]:
        """Characters of each chunk."""
        return [CharSpan(start, end) for start, end in self.borders]


Embed = Callable[[Task], object]


def make_task(tokens: int, encoder: Encoder) -> Task:
    """A document of so many tokens, and chunks of equal size."""
    text = read_text(10 * tokens)
    text = text[: int(encoder.tokenize(text).ends[tokens - 1])]
    starts = range(0, len(text), CHUNK_CHARACTERS)
    borders = [(start, min(start + CHUNK_CHARACTERS, len(text))) for start in starts]
    borders = [(start, end) for start, end in borders if text[start:end].strip()]
    return Task(text, borders, count_tokens(encoder, text, [CharSpan(*border) for border in borders]))


def make_ours() -> Embed:
    """Late chunking in windows, token states pooled as they come."""
    encoder = load_encoder(dtype="float32")
    return lambda task: embed_late(encoder, task.text, task.spans)


def make_sbert() -> Embed:
    """What sentence-transformers gives of a document: the token states of its first 512 tokens."""
    peer = load_peer()
    return lambda task: peer.encode(task.text, output_value="token_embeddings")


def make_chonkie() -> Embed:
    """Chonkie's late chunker at our borders."""
    from benchmarks.peers import GivenBorders, as_chunks

    chunker = GivenBorders(load_peer())
    return lambda task: chunker.embed(task.text, as_chunks(task.text, task.spans, task.token_counts))


def load_peer() -> SentenceTransformer:
    """The same weights in sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    profile = locate_checkpoint(EMBEDDED_MODEL)
    peer = SentenceTransformer(str(profile.folder), local_files_only=True)
    peer.max_seq_length = profile.max_tokens
    return peer


CONTESTANTS = {OURS: make_ours, CHONKIE: make_chonkie, SBERT: make_sbert}


def probe(contestant: str, warm_up: Path, document: Path) -> None:
    """Embed one document in this process and print what it took."""
    embed = CONTESTANTS[contestant]()
    embed(read_task(warm_up))
    task = read_task(document)
    before = peak_bytes()
    embed(task)
    print(json.dumps({"peak_bytes": peak_bytes(), "loaded_bytes": before}))


def read_task(path: Path) -> Task:
    """A document that the measuring process has left."""
    return Task(**json.loads(path.read_text(encoding="utf-8")))


def write_task(tokens: int, encoder: Encoder, folder: Path) -> Path:
    """Leave a document to a measured process."""
    path = folder / f"{tokens}.json"
    path.write_text(json.dumps(asdict(make_task(tokens, encoder))), encoding="utf-8")
    return path


def peak_bytes() -> int:
    """Most memory this process ever held at once."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would include the parent, whose memory a new process shares for a moment.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def probe_apart(contestant: str, warm_up: Path, document: Path) -> dict[str, float]:
    """Run `probe` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--probe", contestant, str(warm_up), str(document)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contestant} at {document.stem} tokens failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {name.replace("bytes", "mb"): round(value / 1e6, 1) for name, value in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--probe", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        contestant, *paths = options.probe
        probe(contestant, *map(Path, paths))
        return
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    names = [OURS] if options.quick else list(CONTESTANTS)
    encoder = load_encoder(dtype="float32")
    with TemporaryDirectory() as folder:
        warm_up = write_task(WARM_UP_TOKENS, encoder, Path(folder))
        documents = {length: write_task(length, encoder, Path(folder)) for length in lengths}
        contestants = {
            name: {str(length): probe_apart(name, warm_up, path) for length, path in documents.items()}
            for name in names
        }
    write_report(
        "memory",
        options,
        model=f"{encoder.profile.name}, sha256 {encoder.profile.weights_sha256[:12]}, float32",
        data="pydoc_data.topics (CPython), repeated to the length; chunks of 1000 characters",
        n=1,
        interval="none; one process each",
        results={
            "lengths": list(lengths),
            "reference_length": lengths[0] if options.quick else REFERENCE_LENGTH,
            "contestants": contestants,
        },
    )


if __name__ == "__main__":
    main()
