"""Ranks: shares, and what all ranks see of each other, with the exchange between processes played by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.ranks import Ranks
from interp.core.runs import InputError


class Told(Ranks):
    """A rank whose fellows say what the test wrote down."""

    replies: list[list[Any]]

    def gather(self, thing: Any) -> list[Any]:
        found = self.replies.pop(0)
        assert found[self.rank] == thing
        return found


def told(rank: int, *replies: list[Any]) -> Told:
    ranks = Told(rank, 2)
    object.__setattr__(ranks, "replies", list(replies))
    return ranks


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
def test_one_process_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks.here() == Ranks(0, 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Ranks.here() == Ranks(0, 1)
    assert not torch.distributed.is_initialized()


def test_shares_are_disjoint_and_together_everything() -> None:
    shares = [list(Ranks(rank, 3).mine(range(8))) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert Ranks().mine(range(8)) == range(8)


def test_one_process_computes_every_item_when_it_is_asked_for() -> None:
    done = []

    def work(item: int) -> dict[str, torch.Tensor]:
        done.append(item)
        return {"square": torch.tensor(item**2)}

    found = Ranks().share(iter([3, 2]), work)
    assert done == []
    item, tensors = next(found)
    assert (item, int(tensors["square"]), done) == (3, 9, [3])
    assert [item for item, _ in found] == [2]


def test_one_process_raises_its_own_error() -> None:
    with pytest.raises(KeyError, match="mine"), Ranks().together():
        raise KeyError("mine")
    assert Ranks().gather(5) == [5]


def test_an_input_error_of_another_rank_is_raised_here_in_its_words() -> None:
    here = told(0, [None, (True, "InputError", "row 3 is empty; drop it")])
    with pytest.raises(InputError, match=r"^row 3 is empty; drop it$"), here.together():
        pass


def test_any_other_error_of_another_rank_says_whose_it_is() -> None:
    here = told(0, [None, (False, "OutOfMemoryError", "3 GiB")])
    with pytest.raises(RuntimeError, match=r"^rank 1 failed: OutOfMemoryError: 3 GiB$"), here.together():
        pass


def test_the_own_error_comes_before_that_of_others() -> None:
    here = told(1, [(True, "InputError", "theirs"), (False, "KeyError", "'mine'")])
    with pytest.raises(KeyError, match="mine"), here.together():
        raise KeyError("mine")


def test_a_folder_that_only_another_machine_sees(tmp_path: Path) -> None:
    assert Ranks().seen([tmp_path]) == [tmp_path]
    text = f"rank 0 does not see {tmp_path}/b, which another rank wrote; set INTERP_CACHE to a folder that all machines"
    with pytest.raises(InputError, match=f"^{text} share$"):
        Ranks().seen([tmp_path, tmp_path / "b"])
