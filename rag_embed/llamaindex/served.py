"""What an embedding model is told of the servers that compute its token states."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from rag_embed.errors import InputError
from rag_embed.served import Engine, Server


class ServedModel(BaseModel):
    """Token states from a server; tokenizer, windows and pooling stay here (docs/serving.md).

    Attributes:
        server: Address of a server of the checkpoint; None computes here.
        context_server: Address of a server of the weights with the adapter merged, which read windows: the
            folder `context` of `rag-embed export`. Needed with an adapter only.
        engine: What runs there, "vllm" or "tei" (text-embeddings-inference); "torch" is no server.
        api_key: Key of the servers. Not part of `repr`, `to_dict` and pickles: a copy in another process
            takes that of the environment variable RAG_EMBED_SERVER_API_KEY, as does one that is given none.
        requests_in_flight: Most requests that wait for an answer at the same time.
        timeout_s: How long one answer may take.

    Raises:
        InputError: There is a server and no engine, or the other way round.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # pydantic would show the key with any refusal

    server: str | None = None
    context_server: str | None = None
    engine: Engine = "torch"
    api_key: str | None = Field(default=None, exclude=True, repr=False)
    requests_in_flight: int = Field(default=4, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)

    @model_validator(mode="after")
    def _check_server(self) -> Self:
        if (self.server is None) != (self.engine == "torch"):
            raise InputError(
                f"engine is {self.engine!r} and server {'not given' if self.server is None else 'given'}; "
                "expected both or none: server='http://host:8000', engine='vllm' or 'tei'"
            )
        if self.server is None and (self.context_server or self.api_key):
            raise InputError("context_server or api_key is given without server; expected server= too")
        self.connection_options  # noqa: B018  # an address that is none is refused now
        return self

    @property
    def connection_options(self) -> Server | None:
        """Where token states come from; None where they are computed here."""
        if self.server is None:
            return None
        return Server(
            self.engine,
            self.server,
            self.context_server,
            self.api_key,
            timeout_s=self.timeout_s,
            requests_in_flight=self.requests_in_flight,
        )
