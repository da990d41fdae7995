"""Whatever a command was doing when it was killed: run again, it ends where it would have ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("peft", reason="needs the extra train")
pytest.importorskip("qdrant_edge", reason="needs the extra local")

from tests.checkpoints import tiny_bert
from tests.kills import OPERATIONS, Yard

SEEDS = 34  # for each of seven operations: 238


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("kills")
    tiny_bert(folder / "newer", seed=1)
    made = Yard(folder / "yard", tiny_bert(folder / "model"))
    yield made
    made.close()


@pytest.mark.parametrize("operation", ["index", "train"])
def test_killed_and_run_again_it_ends_where_it_would_have(yard: Yard, operation: str) -> None:
    assert yard.trial(operation, 0) == ""


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["index", "replace", "delete", "optimize", "migrate"])
def test_killed_before_or_after_any_write_it_ends_where_it_would_have(yard: Yard, operation: str) -> None:
    _, whole = yard.undisturbed(operation)
    assert whole.writes > 4
    wrong = {number: yard.trial_at_write(operation, number) for number in range(1, whole.writes + 1)}
    assert {number: found for number, found in wrong.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_any_moment_it_ends_where_it_would_have(yard: Yard, operation: str, seed: int) -> None:
    assert yard.trial(operation, seed) == ""
