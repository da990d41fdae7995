"""What all tests share: no network, one thread, shapes checked at run time, two encoders loaded once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not os.environ.get("RAG_EMBED_TEST_DEVICE"):
    # The same tests on every machine: where there is a GPU, "auto" would compute on it, in bfloat16.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import jaxtyping
import pytest

# Rings 1 and 2 are imported with their shapes checked at every call; users never pay for that.
SHAPES_CHECKED = [
    "rag_embed.spans",
    "rag_embed.windows",
    "rag_embed.tokens",
    "rag_embed.pooling",
    "rag_embed.query_map",
    "rag_embed.vector_form",
    "rag_embed.prompts",
    "rag_embed.stamp",
    "rag_embed.profiles",
    "rag_embed.devices",
    "rag_embed.guards",
    "rag_embed.jina_bert",
    "rag_embed.packed_attention",
    "rag_embed.text_tokenizer",
    "rag_embed.prefix_markers",
    "rag_embed.scored_tokens",
    "rag_embed.token_head",
    "rag_embed.checkpoint",
    "rag_embed.encoder",
    "rag_embed.loading",
    "rag_embed.passes",
    "rag_embed.chunk_windows",
    "rag_embed.shared_layers",
    "rag_embed.shared_reading",
    "rag_embed.native",
    "rag_embed.late_chunking",
    "rag_embed.export",
    "rag_embed.served",
    "rag_embed.vector_space",
    "rag_embed.recipe",
    "rag_embed.document_reading",
    "rag_embed.chunk_embedder",
    "rag_embed.listwise",
]
_hook = jaxtyping.install_import_hook(SHAPES_CHECKED, "beartype.beartype")

import torch  # noqa: E402

from tests import reference  # noqa: E402
from tests.checkpoints import tiny_bert  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from rag_embed import ContextualEmbedding, QdrantChunkStore
    from rag_embed.encoder import Encoder

Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerFast"]

_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1", "", None}


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    server = urlsplit(os.environ.get("QDRANT_URL", "")).hostname
    return host in _LOCAL_HOSTS or host == server or str(host).startswith("127.")


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    """Let no test look up or reach anything but this machine (and QDRANT_URL, where it is set)."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: object) -> None:
        if not _is_local(host):
            # Not an Exception: no retry and no fallback of the code under test may swallow it.
            raise pytest.fail.Exception(f"a test tried to reach {host!r}; tests run offline", pytrace=True)

    def guarded_connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple):
            check(address[0])
        return connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: object) -> int:
        if isinstance(address, tuple):
            check(address[0])
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: object, *args: object, **options: object) -> object:
        check(host)
        return getaddrinfo(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads only wait for each other on models this small; on a busy machine for seconds."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: 2 layers, 32 dimensions, 64 positions, random."""
    return tiny_bert(tmp_path_factory.mktemp("checkpoints") / "tiny_bert")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_folder: Path) -> Encoder:
    from rag_embed.loading import load_encoder

    return load_encoder(tiny_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_reference(tiny_folder: Path) -> Loaded:
    return reference.load(tiny_folder)


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The embedded encoder, in float32 on the CPU."""
    from rag_embed.loading import load_encoder

    return load_encoder(device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def minilm_reference(minilm: Encoder) -> Loaded:
    return reference.load(minilm.profile.folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> ContextualEmbedding:
    """The tiny encoder as LlamaIndex's embedding model."""
    from rag_embed import ContextualEmbedding

    return ContextualEmbedding(model=str(tiny_folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tiny_store(request: pytest.FixtureRequest, tiny_model: ContextualEmbedding) -> Iterator[QdrantChunkStore]:
    """The module's `TEXT` as document "doc", its beginning as "other", in overlapping chunks; read only."""
    from llama_index.core import Document
    from llama_index.core.node_parser import SentenceSplitter

    from rag_embed import LateChunkingNodeParser, QdrantChunkStore

    text: str = request.module.TEXT
    splitter = SentenceSplitter(chunk_size=60, chunk_overlap=20)
    parser = LateChunkingNodeParser(node_parser=splitter, embed_model=tiny_model)
    with QdrantChunkStore("docs", location=":memory:") as made:
        made.add(parser([Document(text=text, id_="doc"), Document(text=text[:700], id_="other")]))
        yield made
