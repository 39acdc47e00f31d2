"""Algebra of activations: exact differences, projections as lengths, refusals between lineages."""

import pytest
import torch
from safetensors.torch import save_file

from interp.activations import Activations, Direction
from interp.core.runs import InputError

HOOK = "blocks.0.hook_resid_post"


def activations(table, **changes):
    fields = {
        "values": {HOOK: torch.tensor(table)},
        "mask": torch.tensor([[True, True], [True, False]]),
        "label": "teacher",
        "fingerprint": "t" * 16,
        "inputs": "rows",
        "where": torch.tensor([[3, 5], [2, -1]]),
        "lineage": "b" * 16,
    }
    return Activations(**{**fields, **changes})


@pytest.fixture
def teacher():
    return activations([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]])


@pytest.fixture
def base():
    values = [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]]
    return activations(values, label="base", fingerprint="b" * 16)


def test_subtraction_is_exact_and_labelled(teacher, base):
    difference = teacher - base
    assert difference.label == "teacher − base"
    assert difference[HOOK].tolist() == [[[2.0, 3.0], [0.0, -1.0]], [[-1.0, 1.0], [0.0, 0.0]]]
    assert difference.fingerprint == f"{'t' * 16}-{'b' * 16}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lineage": "c" * 16},
            "cannot subtract base from teacher: their weights descend from 'b{16}' and 'c{16}'; ",
        ),
        ({"inputs": "others"}, "recorded on different tokens or positions; record both on the same prompts"),
        ({"values": {"blocks.1.hook_resid_post": torch.zeros(2, 2, 2)}}, "only one of them has blocks.0"),
    ],
)
def test_subtraction_refuses(teacher, changes, message):
    with pytest.raises(InputError, match=message):
        teacher - activations([[[0.0, 0.0]] * 2] * 2, **{"label": "base", **changes})


def test_mean_counts_chosen_positions_once(teacher):
    assert torch.allclose(teacher.mean(HOOK), torch.tensor([4 / 3, 2.0]))
    assert teacher.flat(HOOK).tolist() == [[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]


def test_projection_is_a_length_along_the_direction(teacher):
    projected = teacher.project(torch.tensor([6.0, 8.0]))
    assert projected[0].tolist() == pytest.approx([5.0, 0.6])
    assert projected[1, 0].item() == pytest.approx(1.6)
    assert projected[1, 1].isnan()


def test_a_direction_carries_its_weights(teacher):
    direction = teacher.direction(HOOK)
    assert direction.fingerprint == teacher.fingerprint
    assert torch.equal(teacher.project(direction)[0], teacher.project(direction.vector, HOOK)[0])
    cross = Direction(direction.vector, HOOK, "owl", "c" * 16, "c" * 16)
    message = "direction 'owl' was read in the lineage of 'c{16}', teacher belongs to 'b{16}'"
    with pytest.raises(InputError, match=message):
        teacher.project(cross)


def test_projection_refuses_other_widths_and_bare_vectors_among_many_hooks(teacher):
    with pytest.raises(InputError, match=r"the direction has shape \(3,\), values at .* \(2,\)"):
        teacher.project(torch.ones(3))
    two = activations(
        [[[0.0] * 2] * 2] * 2, values={HOOK: torch.zeros(2, 2, 2), "blocks.1.x": torch.zeros(2, 2, 2)}
    )
    with pytest.raises(InputError, match=r"a bare vector belongs to no hook; name one of blocks.0"):
        two.project(torch.ones(2))


def test_unknown_hooks_name_the_nearest(teacher):
    with pytest.raises(
        InputError, match=r"'blocks.0.hook_resid_pots' is unknown; nearest: blocks.0.hook_resid_post"
    ):
        teacher["blocks.0.hook_resid_pots"]


@pytest.mark.parametrize("examples", [slice(1, 2), [1], torch.tensor([False, True])])
def test_select_takes_rows_with_their_mask(teacher, base, examples):
    one = teacher.select(examples=examples)
    assert one[HOOK].tolist() == [[[0.0, 2.0], [0.0, 0.0]]]
    assert one.mask.tolist() == [[True, False]]
    assert one.where.tolist() == [[2, -1]]
    assert (one - base.select(examples=examples))[HOOK][0, 0].tolist() == [-1.0, 1.0]
    with pytest.raises(InputError, match=r"recorded on different tokens"):
        one - base.select(examples=[0])


def test_saving_round_trips_exactly(teacher, tmp_path):
    loaded = Activations.load(teacher.save(tmp_path / "teacher.safetensors"))
    assert torch.equal(loaded[HOOK], teacher[HOOK])
    assert torch.equal(loaded.mask, teacher.mask)
    assert torch.equal(loaded.where, teacher.where)
    for name in ("label", "fingerprint", "inputs", "lineage"):
        assert getattr(loaded, name) == getattr(teacher, name)
    assert float((loaded - teacher)[HOOK].abs().max()) == 0


def test_files_of_other_formats_are_refused(teacher, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"safetensors without recorded activations"):
        Activations.load(path)
    teacher.save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"truncated or not safetensors"):
        Activations.load(path)


def test_it_prints_as_one_line_and_shows_as_a_table(teacher):
    assert repr(teacher) == "Activations(teacher: 1 hooks, 2 rows, 3 positions, 0.0 MiB)"
    assert "<td>[2, 2, 2]</td>" in teacher._repr_html_()
    named = activations([[[0.0] * 2] * 2] * 2, label="<b>owl</b>")
    assert "&lt;b&gt;owl" in named._repr_html_()
