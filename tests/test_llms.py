"""LLMs by their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.llms import MockLLM
from pydantic import Field

from rag_embed.chat.llms import load_llm, load_llms
from rag_embed.errors import InputError

MOCK = "llama_index.core.llms:MockLLM"
LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


class Recorder(MockLLM):
    """Keeps what it was made with."""

    given: dict[str, object] = Field(default_factory=dict)

    def __init__(self, **given: object) -> None:
        super().__init__()
        self.given = given


def test_arguments_stand_behind_the_class_or_beside_it() -> None:
    llm = load_llm(f"{MOCK}(max_tokens=7)")
    assert isinstance(llm, MockLLM)
    assert llm.max_tokens == 7
    assert isinstance(beside := load_llm(MOCK, ["max_tokens=8"]), MockLLM)
    assert beside.max_tokens == 8


@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}_x", fullmatch=True), LITERALS, max_size=4))
def test_literals_arrive_as_they_are(given_: dict[str, object]) -> None:
    inline = ", ".join(f"{key}={value!r}" for key, value in given_.items())
    llm = load_llm(f"{__name__}:Recorder({inline})")
    assert isinstance(llm, Recorder)
    assert llm.given == given_


@pytest.mark.parametrize(
    "arguments",
    [
        "7",
        "*[7]",
        "**{'max_tokens': 7}",
        "max_tokens=seven",
        "max_tokens=",
        "a=1)(b=2",
        "a=1) or f(",
        "a=print()",
    ],
)
def test_anything_but_keys_and_literals_is_refused(arguments: str) -> None:
    with pytest.raises(InputError, match="expected them as in Python, with literal values"):
        load_llm(f"{MOCK}({arguments})")


def test_several_are_told_apart_by_what_was_written() -> None:
    names = [f"{MOCK}(max_tokens=1)", f"{MOCK}(max_tokens=2)", MOCK]
    assert list(load_llms(names, [])) == ["MockLLM(max_tokens=1)", "MockLLM(max_tokens=2)", "MockLLM"]
    with pytest.raises(InputError, match="two LLMs are called 'MockLLM'; expected names that differ"):
        load_llms([MOCK, MOCK], [])
