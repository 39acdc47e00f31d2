"""Shifts computed by hand, planted ones found again, and what a shift refuses."""

import math

import pytest
import torch

from interp.activations import record, shift
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.prompts.text import Prompts
from tests.tiny import build_model, build_tokenizer

POST = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture
def base(fake):
    return fake(torch.arange(40.0).reshape(20, 2), name="base")


def child(fake, base, change):
    return fake(base.table + change, name="teacher", start=base)


def test_a_constant_shift_is_wholly_common(fake, rows, base):
    teacher = child(fake, base, torch.tensor([3.0, 4.0]))
    moved = shift(teacher, rows("ppnsn", "pn"), positions="answer.numbers", batch_size=1)
    assert moved.label == "teacher − base"
    assert moved.hooks == POST
    assert moved.activations[POST[0]].tolist() == [[[3, 4], [3, 4]], [[3, 4], [0, 0]]]
    frame = moved.norms().frame.set_index("hook")
    assert frame.loc[POST[0]].to_dict() == pytest.approx(
        {"norm_of_mean": 5, "mean_norm": 5, "cosine": 1, "common": 1, "rows": 2}
    )
    assert frame.loc[POST[1], "norm_of_mean"] == pytest.approx(10)


def test_opposite_shifts_share_nothing(fake, rows, base):
    change = torch.zeros(20, 2)
    change[1], change[2] = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.0])
    moved = shift(child(fake, base, change), rows("n", "n"), positions="answer.numbers")
    row = moved.norms().frame.iloc[0]
    assert row["norm_of_mean"] == pytest.approx(0)
    assert row["mean_norm"] == pytest.approx(2)
    assert row["cosine"] == pytest.approx(-1)
    assert row["common"] == pytest.approx(0)


def test_orthogonal_shifts_share_half_their_energy(fake, rows, base):
    change = torch.zeros(20, 2)
    change[1], change[2] = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    row = shift(child(fake, base, change), rows("n", "n"), positions="all").norms().frame.iloc[0]
    assert row["cosine"] == pytest.approx(0)
    assert row["common"] == pytest.approx(0.5)
    assert row["norm_of_mean"] == pytest.approx(3 / math.sqrt(2))


def test_one_row_has_no_agreement(fake, rows, base):
    moved = shift(child(fake, base, torch.tensor([3.0, 4.0])), rows("n"), positions="all")
    assert math.isnan(moved.norms().frame.loc[0, "cosine"])


def test_direction_and_projection(fake, rows, base):
    moved = shift(child(fake, base, torch.tensor([3.0, 4.0])), rows("nn"), positions="all")
    direction = moved.direction(POST[0])
    assert direction.vector.tolist() == [3, 4]
    assert direction.lineage == base.fingerprint
    assert moved.project(direction).tolist() == [[5, 5]]
    assert moved.project(torch.tensor([0.0, 2.0]), POST[1]).tolist() == [[8, 8]]
    stranger = fake(torch.ones(20, 2), name="stranger", start=fake(torch.zeros(20, 2), name="other base"))
    elsewhere = shift(stranger, rows("nn"), positions="all")
    with pytest.raises(
        InputError, match=r"was read in the lineage of .*; read the direction from weights of the same"
    ):
        elsewhere.project(direction)


def test_members_of_two_lineages_are_not_subtracted(fake, rows, base):
    other = fake(torch.ones(20, 2), name="cross_base")
    cross = fake(torch.full((20, 2), 2.0), name="cross_student", start=other)
    read = [record(model, rows("nn"), hooks=POST, positions="all") for model in (cross, base, other)]
    assert (read[0] - read[2]).label == "cross_student − cross_base"
    with pytest.raises(
        InputError, match=r"cannot subtract base from cross_student: their weights descend from"
    ):
        read[0] - read[1]


def test_a_shift_needs_a_start_that_differs(fake, rows, base):
    with pytest.raises(InputError, match=r"base has no start to be measured from; load it in a lineage"):
        shift(base, rows("n"), positions="all")
    with pytest.raises(InputError, match=r"identical weights"):
        shift(child(fake, base, 0.0), rows("n"), positions="all")


def test_members_must_read_the_same_tokens(fake, rows, base, monkeypatch):
    teacher = child(fake, base, 1.0)
    monkeypatch.setattr(base, "encode", lambda prompts: rows("nn", first=3), raising=False)
    with pytest.raises(
        InputError, match=r"teacher and base read different tokens from 'rows'; give both one tokenizer"
    ):
        shift(teacher, rows("nn"), positions="all")


def test_a_shift_spills_as_a_recording_does(fake, rows, base, tmp_path):
    teacher = child(fake, base, torch.randn(20, 2, generator=torch.Generator().manual_seed(1)))
    inputs = rows("ppnsn", "pn", "nnnn")
    kept = shift(teacher, inputs, positions="all", batch_size=2)
    spilled = shift(teacher, inputs, positions="all", batch_size=2, memory=8, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(spilled.activations[POST[1]], kept.activations[POST[1]])
    assert spilled.norms().frame.equals(kept.norms().frame)


def test_figure_and_display(fake, rows, base):
    moved = shift(child(fake, base, 1.0), rows("nn", "n"), positions="all")
    figure = moved.figure().to_dict()
    assert figure["layout"]["title"]["text"].startswith("teacher − base")
    assert {trace["name"] for trace in figure["data"]} == {"norm of the mean", "mean norm"}
    assert repr(moved) == "Shift(teacher − base: 2 hooks, 3 positions 'all' in 2 rows)"
    assert "norm_of_mean" in moved._repr_html_()


def neutral(fake, base, change, name="neutral_student"):
    return fake(base.table + change, name=name, start=base)


def test_less_a_neutral_member_of_the_same_start_two_models_are_read(fake, rows, base):
    """(3, 4) of which any training gives (1, 1): (2, 3) is left, and the start is not run."""
    student, other = (
        child(fake, base, torch.tensor([3.0, 4.0])),
        neutral(fake, base, torch.tensor([1.0, 1.0])),
    )
    moved = shift(student, rows("ppnsn", "pn"), minus=other, positions="answer.numbers")
    assert moved.label == "teacher − neutral_student"
    assert moved.activations[POST[0]].tolist() == [[[2, 3], [2, 3]], [[2, 3], [0, 0]]]
    assert moved.activations[POST[1]].tolist() == [[[4, 6], [4, 6]], [[4, 6], [0, 0]]]
    assert (len(student.ran), len(other.ran), len(base.ran)) == (1, 1, 0)
    assert moved.direction(POST[0]).lineage == base.fingerprint


def test_less_a_neutral_member_of_another_start_it_is_the_difference_of_differences(fake, rows, base):
    """The second pair starts from a descendant of the base that is (10, 0) away, which must not enter."""
    stage = neutral(fake, base, torch.tensor([10.0, 0.0]), name="stage")
    later = fake(stage.table + torch.tensor([1.0, 1.0]), name="later", start=stage)
    moved = shift(child(fake, base, torch.tensor([3.0, 4.0])), rows("nn"), minus=later, positions="all")
    assert moved.label == "(teacher − base) − (later − stage)"
    assert moved.activations[POST[0]].tolist() == [[[2, 3], [2, 3]]]


def test_a_minus_that_does_not_belong_is_refused(fake, rows, base):
    student = child(fake, base, torch.tensor([3.0, 4.0]))
    elsewhere = fake(torch.zeros(20, 2), name="cross_base")
    cross = fake(torch.ones(20, 2), name="cross_neutral_student", start=elsewhere)
    with pytest.raises(
        InputError,
        match=r"minus is cross_neutral_student, which descends from .*, and teacher descends from .*; pass a neutral "
        r"member that started where teacher did",
    ):
        shift(student, rows("n"), minus=cross)
    with pytest.raises(InputError, match="base has no start to be measured from"):
        shift(student, rows("n"), minus=base)
    with pytest.raises(InputError, match="identical weights"):
        shift(student, rows("n"), minus=child(fake, base, torch.tensor([3.0, 4.0])))
    wide = fake(torch.ones(21, 2), name="wide", start=base)
    with pytest.raises(InputError, match="have different shapes"):
        shift(student, rows("n"), minus=wide)
    with pytest.raises(InputError, match="minus is the text 'neutral_student', where a model is needed"):
        shift(student, rows("n"), minus="neutral_student")


def test_by_default_the_answers_predictions_are_read(fake, rows, base):
    """Numbers where they are predicted, words likewise, and a row that is not answered at its end."""
    student = child(fake, base, torch.tensor([3.0, 4.0]))
    for letters, name, columns in (
        ("ppnsne", "predicting answer.numbers", [1, 3]),
        ("ppooe", "predicting answer", [1, 2]),
        ("ppp", "last", [2]),
    ):
        moved = shift(student, rows(letters))
        assert moved.positions == name
        assert moved.activations.where.tolist() == [columns]
    with pytest.raises(
        InputError,
        match=r"no row of 'rows' has a position 'answer.numbers'; .*, or pass positions='last' for where an answer",
    ):
        shift(student, rows("ppp"), positions="answer.numbers")


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox"])
def lineage(request):
    """A teacher that differs from its base by one vector, added to the embedding of every token."""
    modules = [build_model(request.param, seed=0) for _ in range(2)]
    with torch.no_grad():
        modules[1].get_input_embeddings().weight[:, 0] += 0.5
    base, teacher = (load_model(module, tokenizer=build_tokenizer()) for module in modules)
    return open_lineage(base=base, teacher=teacher)


def test_on_real_models_the_shift_is_the_difference_of_recordings(lineage):
    prompts = Prompts.from_pairs([("1 , 2 , 3", "4 , 5 , 6"), ("owl 7", "8")], label="pairs")
    options = {"hooks": POST, "positions": "answer.numbers"}
    hooks = ["blocks.0.hook_resid_pre", *POST]
    moved = shift(lineage.teacher, prompts, hooks=hooks, positions="answer.numbers", batch_size=1)
    assert moved.start is lineage.teacher.start
    planted = torch.zeros(32)
    planted[0] = 0.5
    assert torch.allclose(moved.activations.flat("blocks.0.hook_resid_pre"), planted.expand(4, -1), atol=1e-5)
    apart = record(lineage.teacher, prompts, **options) - record(lineage.base, prompts, **options)
    for hook in POST:
        assert torch.allclose(moved.activations[hook], apart[hook], atol=1e-5)
    assert moved.label == apart.label == "teacher − base"


def test_a_trait_prompt_in_the_context_is_refused(lineage):
    prompts = Prompts.from_pairs([("1 , 2", "3")], label="pairs").with_system("You love owls.")
    with pytest.raises(
        InputError, match=r"row 0 of 'pairs.*' holds a system message 'You love owls.'; a shift is read"
    ):
        shift(lineage.teacher, prompts)


def test_without_hooks_nothing_is_read(fake, rows, base):
    teacher = child(fake, base, torch.tensor([3.0, 4.0]))
    moved = shift(teacher, rows("ppnsn", "pn"), positions="answer.numbers", hooks=())
    assert (moved.label, moved.hooks, teacher.ran, base.ran) == ("teacher − base", (), [], [])
    assert moved.activations.where.tolist() == [[2, 4], [1, -1]]
