"""What a store shows of itself: no key, no header, no password."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from rag_embed.errors import InputError, StoreError
from rag_embed.indexes.opening import Place
from rag_embed.qdrant import QdrantChunkStore, RetryPolicy
from rag_embed.qdrant.connect import Connection

SECRET = "sesame-0123456789"
URL = "http://127.0.0.1:1"
OPTIONS: dict[str, Any] = {
    "headers": {"Authorization": f"Bearer {SECRET}"},
    "metadata": {"x-token": SECRET},
    "auth_token_provider": lambda: SECRET,
    "grpc_port": 7,
    "https": False,
}


def test_keys_and_headers_are_shown_nowhere() -> None:
    retry = RetryPolicy(attempts=1)
    with QdrantChunkStore("docs", url=URL, api_key=SECRET, client_options=OPTIONS, retry=retry) as store:
        with pytest.raises(StoreError) as failure:
            store.count()
        shown = [
            repr(store),
            str(store),
            repr(store._connection),
            repr(store._collection),
            str(store.to_dict()),
            store.to_json(),
            store.model_dump_json(),
            repr(pickle.dumps(store)),
            str(failure.value),
        ]
        for text in shown:
            assert SECRET not in text
        assert store.to_dict()["client_options"] == {"grpc_port": 7, "https": False}
        with QdrantChunkStore.from_dict(store.to_dict()) as again:
            assert again.client_options == {"grpc_port": 7, "https": False}
    place = Place("docs", Path("x"), url=URL, api_key=SECRET)
    assert SECRET not in repr(place) + str(place)


@pytest.mark.parametrize(
    "url", [f"http://user:{SECRET}@host:6333", f"https://{SECRET}@host", f"u:{SECRET}@host"]
)
def test_a_url_with_a_password_is_refused_without_showing_it(url: str) -> None:
    for make in (
        lambda: QdrantChunkStore("docs", url=url),
        lambda: QdrantChunkStore("docs", location=url),
        lambda: Connection("docs", url=url),
        lambda: Place("docs", Path("x"), url=url),
    ):
        with pytest.raises(
            InputError, match=r"user or password, which Qdrant's client does not send"
        ) as refusal:
            make()
        assert SECRET not in str(refusal.value)
        assert "host" in str(refusal.value)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_somebodys_client_with_a_password_in_its_url_does_not_show_it_in_errors() -> None:
    url = f"http://user:{SECRET}@127.0.0.1:1"
    client = QdrantClient(url=url, api_key=SECRET, check_compatibility=False)
    aclient = AsyncQdrantClient(url=url, check_compatibility=False)
    with QdrantChunkStore("docs", client=client, aclient=aclient, retry=RetryPolicy(attempts=1)) as store:
        with pytest.raises(StoreError, match=r"server http://127.0.0.1:1 does not answer") as failure:
            store.count()
        assert SECRET not in str(failure.value) + repr(store) + repr(store._connection)


def test_values_of_the_wrong_type_are_not_repeated() -> None:
    with pytest.raises(ValueError, match="api_key") as failure:
        QdrantChunkStore("docs", url=URL, api_key=[SECRET])
    assert SECRET not in str(failure.value)
