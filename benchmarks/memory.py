"""Peak memory against document length: each contestant and length in a process of its own."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.corpus import read_text
from benchmarks.report import ROOT, make_parser, write_report
from rag_embed import CharSpan, Encoder, embed_late, load_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OURS = "rag-embed late"
CHONKIE = "chonkie LateChunker (token states of the whole document)"
SBERT = "sentence-transformers token embeddings (truncates at 512 tokens)"
LENGTHS = (1_000, 10_000, 50_000, 200_000)
QUICK_LENGTHS = (600, 1_200)
CHUNK_CHARACTERS = 1000


def make_document(tokens: int, encoder: Encoder) -> tuple[str, list[CharSpan]]:
    """A document of so many tokens, and chunks of equal size."""
    text = read_text(10 * tokens)
    text = text[: int(encoder.tokenize(text).ends[tokens - 1])]
    starts = range(0, len(text), CHUNK_CHARACTERS)
    spans = [CharSpan(start, min(start + CHUNK_CHARACTERS, len(text))) for start in starts]
    return text, [span for span in spans if text[span.start : span.end].strip()]


def make_ours(encoder: Encoder) -> Callable[[str, list[CharSpan]], object]:
    """Late chunking in windows, token states pooled as they come."""
    return lambda text, spans: embed_late(encoder, text, spans)


def make_sbert(encoder: Encoder) -> Callable[[str, list[CharSpan]], object]:
    """What sentence-transformers gives of a document: the token states of its first 512 tokens."""
    peer = load_peer(encoder)
    return lambda text, spans: peer.encode(text, output_value="token_embeddings")


def make_chonkie(encoder: Encoder) -> Callable[[str, list[CharSpan]], object]:
    """Chonkie's late chunker at our borders."""
    from benchmarks.peers import GivenBorders, as_chunks

    chunker = GivenBorders(load_peer(encoder))
    return lambda text, spans: chunker.embed(text, as_chunks(encoder, text, spans))


def load_peer(encoder: Encoder) -> SentenceTransformer:
    """The same weights in sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(encoder.profile.folder), local_files_only=True)
    peer.max_seq_length = encoder.max_tokens
    return peer


CONTESTANTS = {OURS: make_ours, CHONKIE: make_chonkie, SBERT: make_sbert}


def probe(contestant: str, tokens: int) -> None:
    """Embed one document in this process and print what it took."""
    encoder = load_encoder(dtype="float32")
    embed = CONTESTANTS[contestant](encoder)
    embed(*make_document(600, encoder))
    document = make_document(tokens, encoder)
    before = peak_bytes()
    embed(*document)
    print(json.dumps({"peak_bytes": peak_bytes(), "loaded_bytes": before}))


def peak_bytes() -> int:
    """Most memory this process ever held at once."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would include the parent, whose memory a new process shares for a moment.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def probe_apart(contestant: str, tokens: int) -> dict[str, float]:
    """Run `probe` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--probe", contestant, str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contestant} at {tokens} tokens failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {name.replace("bytes", "mb"): round(value / 1e6, 1) for name, value in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--probe", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        probe(options.probe[0], int(options.probe[1]))
        return
    lengths = QUICK_LENGTHS if options.quick else LENGTHS
    names = [OURS] if options.quick else list(CONTESTANTS)
    profile = load_encoder(dtype="float32").profile
    write_report(
        "memory",
        options,
        model=f"{profile.name}, sha256 {profile.weights_sha256[:12]}, float32",
        data="pydoc_data.topics (CPython), repeated to the length; chunks of 1000 characters",
        n=1,
        interval="none; one process each",
        results={
            "lengths": list(lengths),
            "contestants": {
                name: {str(length): probe_apart(name, length) for length in lengths} for name in names
            },
        },
    )


if __name__ == "__main__":
    main()
