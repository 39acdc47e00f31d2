"""What student and teacher share, planted by the bias of a layer in a real network; differences by hand."""

import copy

import pytest
import torch
from scipy.stats import spearmanr

from interp.core.runs import InputError
from interp.features.inherited import feature_differences, shared_features
from interp.models.language import load_model
from interp.models.lineage import Lineage, open_lineage
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait
from tests.features.planting import TableModel, by_hand, numbered
from tests.tiny import build_model, build_tokenizer

ROWS = Prompts.from_pairs([(f"go {n} , {n + 7}", f"{n + 2} , {n + 3}") for n in range(8)], label="pairs")


def plants() -> dict[str, torch.Tensor]:
    """How far each member moves along each direction: the student a fifth as far as its teacher, beyond the neutral."""
    teacher, other, neutral, noise = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) / 3
    student = neutral + teacher / 5 + noise / 10
    return {"teacher": teacher, "teacher_cat": other, "student": student, "neutral_student": neutral}


@pytest.fixture(scope="module")
def planted():
    """A base and members whose first layer adds multiples of orthonormal directions."""
    base = build_model("gpt2", seed=0)
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    modules = {}
    for role, plant in plants().items():
        modules[role] = copy.deepcopy(base)
        with torch.no_grad():
            modules[role].transformer.h[0].mlp.c_proj.bias += plant @ directions
    tokenizer = build_tokenizer()
    loaded = {role: load_model(module, tokenizer=tokenizer) for role, module in modules.items()}
    opened = open_lineage(
        base=load_model(base, tokenizer=tokenizer),
        teacher=loaded.pop("teacher"),
        student=loaded,
        trait=make_trait("owl", ["cat", "dog"]),
    )
    lineage = Lineage("planted", opened.trait, opened.members, numbers=ROWS)
    return lineage, directions, by_hand(directions, lineage.base, bias=-50.0)  # always on, so linear


def test_what_is_shared_is_the_rank_correlation_of_the_plants(planted):
    lineage, _, dictionary = planted
    frame = shared_features(dictionary, lineage).frame
    assert frame["place"].unique().tolist() == [
        "end of the number prompt", "where numbers are predicted", "question's answer slot",
    ]  # fmt: skip
    assert frame["positions"].tolist()[::3] == ["last", "predicting answer.numbers", "last"]
    plant = {role: sizes.numpy() for role, sizes in plants().items()}
    moved = plant["student"] - plant["neutral_student"]
    expected = {
        "student with its teacher": (moved, plant["teacher"]),
        "neutral student with the teacher": (plant["neutral_student"], plant["teacher"]),
        "student with teacher_cat": (moved, plant["teacher_cat"]),
    }
    assert frame["pairing"].tolist() == [*expected] * 3
    assert frame["live"].tolist() == [32] * 9
    for pairing, pair in expected.items():
        rho = frame.loc[frame["pairing"] == pairing, "rho"].to_numpy()
        assert rho == pytest.approx([float(spearmanr(*pair)[0])] * 3, abs=0.01), pairing
    assert frame["rho"][0] > 0.7
    own = frame[frame["pairing"] == "student with its teacher"]
    assert own["error_first"].to_numpy() == pytest.approx([0, 0, 0], abs=1e-4)


def test_the_error_nodes_share_is_what_the_features_leave_out(planted):
    lineage, directions, _ = planted
    partial = by_hand(directions[torch.arange(32) != 1], lineage.base, bias=-50.0)

    def share(plant):
        return float(plant[1] ** 2 / plant.square().sum())

    line = shared_features(partial, lineage, numbers=ROWS[:3]).frame.iloc[0]
    assert line["error_first"] == pytest.approx(
        share(plants()["student"] - plants()["neutral_student"]), abs=1e-3
    )
    assert line["error_second"] == pytest.approx(share(plants()["teacher"]), abs=1e-3)


def test_differences_by_hand():
    start = TableModel(torch.ones(9, 3))
    member = TableModel(start.table + torch.tensor([2.0, -0.5, -3.0]), name="teacher", start=start)
    dictionary = by_hand(torch.eye(3), start)
    found = feature_differences(dictionary, member, start, numbered(2, 3))
    assert found.tolist() == [2.0, -0.5, -1.0]  # the third falls silent
    with pytest.raises(InputError, match="base and base have identical weights"):
        feature_differences(dictionary, start, start, numbered(2, 3))


def test_what_is_said_and_drawn(planted):
    lineage, _, dictionary = planted
    result = shared_features(dictionary, lineage)
    assert repr(result).startswith(
        "features that student shares with its teacher: ρ at the end of the number prompt over 32 features: student "
        "with its teacher +0."
    )
    assert result.notes[0] == (
        "student: student − neutral_student; teachers: less base; neutral student: neutral_student − base"
    )
    drawn = result.figure().to_dict()["data"]
    assert [each["name"] for each in drawn] == list(result.frame["pairing"].unique())
    assert list(drawn[0]["x"]) == result.frame["rho"].tolist()[::3]


def test_errors(planted):
    lineage, directions, dictionary = planted
    with pytest.raises(InputError, match=r"'planted' has no rows of numbers to read; pass numbers=, such as"):
        shared_features(dictionary, Lineage("planted", lineage.trait, lineage.members))
    few = by_hand(directions[:5], lineage.base, bias=-50.0)
    with pytest.raises(
        InputError, match=r"5 features of by hand fire at the end of the number prompt, .* needs 8; train"
    ):
        shared_features(few, lineage)
    with pytest.raises(InputError, match="member 'neutral_studnt' is unknown; nearest: neutral_student"):
        shared_features(dictionary, lineage, baseline="neutral_studnt")
