"""The models inside MTEB's own evaluator, github.com/embeddings-benchmark/mteb. Needs the extra `mteb`.

    task = mteb.get_task("SciFact")
    mteb.evaluate(MtebEncoder(ContextualEmbedding()), task)

For tasks whose corpus holds chunks of longer documents, as in ConTEB (Conti et al. 2025, arXiv:2505.24782),
tell how their ids are put together, and each chunk is read in its document:

    MtebEncoder(ContextualEmbedding(), document_of=split_chunk_id)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from rag_embed.errors import InputError, MissingExtraError
from rag_embed.evaluation.cache import VectorCache
from rag_embed.evaluation.sets import EvalDocument
from rag_embed.evaluation.vectors import Vectors
from rag_embed.llamaindex import ContextualEmbedding
from rag_embed.spans import CharSpan

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import PromptType
except ImportError as error:
    raise MissingExtraError(
        "MTEB's evaluator needs mteb, which is not installed; run pip install 'rag-embed[mteb]'"
    ) from error

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

DocumentOf = Callable[[str], tuple[str, int]]
"""From a chunk's id to its document's id and its place there."""

CHUNK_SEPARATOR = "\n\n"


def split_chunk_id(chunk_id: str) -> tuple[str, int]:
    """Read "document_7" as chunk 7 of "document".

    Raises:
        InputError: The id does not end in an underscore and a number.
    """
    document, separator, number = chunk_id.rpartition("_")
    if not separator or not number.isdecimal():
        raise InputError(
            f"the chunk id is {chunk_id!r}; expected 'document_number'. Pass document_of= with a function "
            "that reads the ids of this task"
        )
    return document, int(number)


class MtebEncoder(AbsEncoder):
    """A `ContextualEmbedding` as MTEB's evaluator wants it.

    Queries are embedded as queries, documents through the same path as in an index. A document's title is its
    metadata, as everywhere here; MTEB itself would put it in front of the text with a space.

    Args:
        model: Any strategy.
        document_of: How chunk ids name their documents; without it every entry of a corpus is a document of
            one chunk. All chunks of a document must come in one call: MTEB hands over a corpus in parts of
            50,000, for more wrap this in its `SearchEncoderWrapper` with a larger `corpus_chunk_size`.
        with_title: Whether titles are used.
        cache: Where vectors are kept; by default in memory.
    """

    def __init__(
        self,
        model: ContextualEmbedding,
        *,
        document_of: DocumentOf | None = None,
        with_title: bool = True,
        cache: VectorCache | None = None,
    ) -> None:
        self.model = model
        self._document_of = document_of
        self._with_title = with_title
        self._cache = cache or VectorCache(None)
        self.mteb_model_meta = _describe_model(model)

    def encode(
        self, inputs: DataLoader[Any], *, prompt_type: PromptType | None = None, **kwargs: Any
    ) -> Float[Tensor, "texts dim"]:
        """Embed queries, or entries of a corpus.

        Args:
            inputs: Batches with "text"; of a corpus also "id", and where there are titles "body" and "title".
            prompt_type: Query or document; other tasks than retrieval name none, and have their texts
                embedded like documents.
            **kwargs: What MTEB says of task, split and batches; not needed.

        Returns:
            One unit vector per text in the given order, float32 on the CPU.
        """
        rows = [row for batch in inputs for row in _as_rows(batch)]
        if prompt_type == PromptType.query:
            return Vectors([], cache=self._cache).queries(self.model, [row["text"] for row in rows])
        documents, order = self._group(rows)
        vectors = Vectors(documents, cache=self._cache)
        return vectors.chunks(self.model, with_title=self._with_title)[order]

    def _group(self, rows: Sequence[dict[str, Any]]) -> tuple[list[EvalDocument], list[int]]:
        """Put chunks together to documents; also the place of each row among the documents' chunks."""
        if self._document_of is None:
            return [_join(str(number), [row]) for number, row in enumerate(rows)], list(range(len(rows)))
        members: dict[str, list[tuple[int, int]]] = {}
        for number, row in enumerate(rows):
            if "id" not in row:
                raise InputError(
                    "texts come without ids, so their documents cannot be told; expected a retrieval task's "
                    "corpus. Leave out document_of= for other tasks"
                )
            doc_id, place = self._document_of(row["id"])
            members.setdefault(doc_id, []).append((place, number))
        sequence = [number for found in members.values() for _, number in sorted(found)]
        documents = [
            _join(doc_id, [rows[number] for _, number in sorted(found)]) for doc_id, found in members.items()
        ]
        order = [0] * len(rows)
        for position, number in enumerate(sequence):
            order[number] = position
        return documents, order


def _as_rows(batch: dict[str, Any]) -> list[dict[str, Any]]:
    count = len(batch["text"])
    names = [name for name in ("id", "text", "body", "title") if name in batch]
    return [{name: batch[name][index] for name in names} for index in range(count)]


def _join(doc_id: str, rows: Sequence[dict[str, Any]]) -> EvalDocument:
    """Make one document of its chunks; the title is the first chunk's."""
    text, spans = "", []
    for row in rows:
        text += CHUNK_SEPARATOR if text else ""
        chunk = row.get("body", row["text"])
        spans.append(CharSpan(len(text), len(text) + len(chunk)))
        text += chunk
    return EvalDocument(doc_id, str(rows[0].get("title", "")), text, tuple(spans))


def _describe_model(model: ContextualEmbedding) -> ModelMeta:
    """Tell MTEB what it writes beside its results."""
    known = {name: None for name, field in ModelMeta.model_fields.items() if field.is_required()}
    return ModelMeta(
        **{
            **known,
            "name": f"rag-embed/{model.profile.name}-{model.strategy}".replace("/", "__").replace(
                "__", "/", 1
            ),
            "revision": model.fingerprint().rsplit("/", 1)[-1],
            "max_tokens": model.profile.max_tokens,
            "embed_dim": model.profile.dim,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
        }
    )
