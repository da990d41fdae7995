"""How vectors are made, as data: everything that decides one, and the name of the space that comes of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from rag_embed.adapter import Adapter, find_adapter, locate_adapter
from rag_embed.devices import Dtype
from rag_embed.guards import Guard, Side, check_form, check_late, check_native
from rag_embed.late_chunking import Strategy, check_blend
from rag_embed.modes import ALPHA, Precision
from rag_embed.passes import WindowOptions
from rag_embed.profiles import EMBEDDED_MODEL, Profile, locate_checkpoint
from rag_embed.served import Engine
from rag_embed.vector_form import VectorForm
from rag_embed.vector_space import name_vector_space


@dataclass(frozen=True)
class Recipe:
    """The options of a chunk vector. Reading them loads no weights.

    Attributes:
        model: The embedded encoder, a local folder, or a hub id.
        revision: Commit of the hub repository.
        dtype: Precision of weights and states; "auto" is float32 on a CPU, bfloat16 on accelerators that
            have it.
        strategy: "isolated", "late", "blend", or "native" for models that embed a document's chunks together.
        alpha: Share of the late vector in a blend.
        adapter: Merged into the encoder that reads windows; queries and isolated chunks never see it. "auto"
            is the shipped adapter of these weights if there is one; else a name, a folder, or None.
        head: What stands before every window: nothing, or the metadata of the document; the isolated half of
            a blend then goes without it.
        window_tokens: Most tokens of a window; None is what adapter or checkpoint were trained for.
        overlap_tokens: Fewest tokens that neighbouring windows share.
        head_tokens: Most tokens of the head; a longer head is cut there.
        query_prefix: Put before queries; None takes what the checkpoint declares.
        document_prefix: Put before windows and isolated chunks; None takes what the checkpoint declares.
        dim: Dimensions that are kept of a vector (Matryoshka); None keeps all.
        precision: "float", or "int8" or "binary" codes.
        engine: What computes token states: "torch" here, or "vllm" or "tei" on a server.
    """

    model: str | Path = EMBEDDED_MODEL
    revision: str | None = None
    dtype: Dtype = "auto"
    strategy: Strategy = "blend"
    alpha: float = ALPHA
    adapter: str | Path | None = "auto"
    head: Literal["none", "metadata"] = "metadata"
    window_tokens: int | None = None
    overlap_tokens: int = 32
    head_tokens: int = 64
    query_prefix: str | None = None
    document_prefix: str | None = None
    dim: int | None = None
    precision: Precision = "float"
    engine: Engine = "torch"

    def __post_init__(self) -> None:
        check_blend("late", self.alpha, self.form)

    @cached_property
    def profile(self) -> Profile:
        """What the checkpoint says of itself."""
        return locate_checkpoint(self.model, revision=self.revision)

    @cached_property
    def located_adapter(self) -> Adapter | None:
        """The adapter that "auto", a name or a folder stands for; None where no window is read."""
        if self.adapter is None or self.strategy in {"isolated", "native"}:
            return None
        if self.adapter != "auto":
            return locate_adapter(self.adapter)
        sha256 = self.profile.weights_sha256
        # Servers answer with states of the last layer alone, so nothing can be shared there.
        shares_layers = self.strategy == "blend" and self.engine == "torch"
        shared = find_adapter(sha256, shares_layers=True) if shares_layers else None
        return shared or find_adapter(sha256, shares_layers=False)

    @property
    def shares_layers(self) -> bool:
        """Whether chunks are read alone and in their window in one pass."""
        return self.located_adapter is not None and self.located_adapter.shared_layers > 0

    @property
    def form(self) -> VectorForm:
        """Size and numbers of the vectors."""
        return VectorForm(self.dim, self.precision)

    @cached_property
    def window_options(self) -> WindowOptions:
        """How documents are cut into forward passes."""
        adapter = self.located_adapter
        trained_tokens = adapter.window_tokens if adapter else self.profile.trained_tokens
        return WindowOptions(self.window_tokens or trained_tokens, self.overlap_tokens, self.head_tokens)

    def prefix(self, side: Side) -> str:
        """What is put before queries or before documents."""
        given: str | None = getattr(self, f"{side}_prefix")
        declared: str = getattr(self.profile, f"{side}_prefix")
        return declared if given is None else given

    @property
    def repeats_metadata(self) -> bool:
        """Whether a chunk embedded alone has the document's metadata in front of it."""
        return self.strategy != "blend" or self.head == "none"

    def check(self, profile: Profile, insist: Collection[Guard]) -> None:
        """Refuse what the model was not trained for.

        Args:
            profile: Of the model.
            insist: Guards that are lifted.

        Raises:
            UnsupportedModelError: The strategy or the form is none of the model's.
        """
        check_blend(self.strategy, self.alpha, self.form)
        check_form(profile, self.form, insist)
        if self.strategy == "native":
            check_native(profile)
        elif self.strategy != "isolated":
            check_late(profile, insist)

    def fingerprint(self) -> str:
        """Name the vector space: everything that changes a vector by more than rounding.

        Device and batch size are left out, and so is an automatic dtype, whatever it stands for here: an
        index that was made on one machine is used on another. Where one side computes in bfloat16, that
        costs nothing that could be measured (docs/benchmarks.md, "Precision"). A bfloat16 or float16 that is
        asked for by name is part of the space, because its vectors differ from float32's by more than 1e-3.
        So is the engine of a server, which has kernels of its own; there "auto" is float32, and the probe
        holds the server to it.
        """
        relevant = ["head", "overlap_tokens", "head_tokens"]
        relevant += ["alpha"] * (self.strategy == "blend")
        relevant += ["dtype"] * (self.dtype not in {"auto", "float32"})
        relevant += ["engine"] * (self.engine != "torch")
        relevant += ["dim", "precision"] * (self.form != VectorForm())
        options = {name: getattr(self, name) for name in relevant}
        options["window_tokens"] = self.window_options.window_tokens
        if self.strategy == "blend":  # how its halves are mixed (pooling.blend)
            options["neighbours"] = "left out"
        return name_vector_space(
            self.profile,
            self.strategy,
            adapter=self.located_adapter,
            options=options,
            prefixes=(self.prefix("query"), self.prefix("document")),
        )
