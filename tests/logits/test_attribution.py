"""Attribution on paper, completeness on seven families with every parameter changed, and what it refuses."""

import copy
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.logits.attribution import attribute
from interp.logits.components import check_explained
from interp.logits.direction import LogitDirection, logit_direction
from interp.logits.lenses import lens
from interp.logits.token_shifts import token_shift
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.logits.pairs import PAIRS, measured_change, pair, perturbed
from tests.logits.paper import Paper, changed_head, child, paper_shift, readout, toward_owl
from tests.tiny import FAMILIES


def contributions(result) -> dict[str, float]:
    return dict(zip(result.frame["component"], result.frame["contribution"], strict=True))


def by_component(result) -> Any:
    return result.frame.set_index("component")


def test_every_row_is_what_paper_says():
    member = changed_head()
    result = attribute(paper_shift(member, [0]), toward_owl(member.start))
    assert contributions(result) == pytest.approx(
        {
            "embed": 0.0,
            "L0H0": -0.5,  # (0, 1) more, read by (1, -1/2)
            "L0H1": 0.0,
            "L0 attention bias": 0.0,
            "L0 MLP": 0.0,
            "L1H0": 0.0,
            "L1H1": 1.0,  # reads the second coordinate, 1 more, writes it to the first
            "L1 attention bias": 1.0,
            "L1 MLP": 4.0,  # twice the first coordinate, 4 before and 6 after
            "unembedding, target": 0.0,
            "unembedding, foils": -2.5,  # 'cat' gains 5 at resid (18, 5), weight -1/2
            "unembedding, bias": 3.0,
        }
    )
    frame: Any = result.frame
    assert frame["measured"].unique().tolist() == [6.0]  # 16 - 10
    assert frame["residual"].abs().max() < 1e-12
    assert by_component(result).loc["L1 MLP", "share"] == pytest.approx(4 / 6)
    assert frame["contribution"].abs().is_monotonic_decreasing


def test_less_a_neutral_member_every_row_is_the_difference_of_two_attributions():
    """The neutral member has the bias of 3 alone: it takes off 3 there and nothing elsewhere."""
    member = changed_head()
    other = child(member.start, end=readout(b_U=torch.tensor([3.0, 0.0, 0.0])))
    result = attribute(replace(paper_shift(member, [0]), minus=other), toward_owl(member.start))
    found = contributions(result)
    assert {name: value for name, value in found.items() if value} == pytest.approx(
        {"L0H0": -0.5, "L1H1": 1.0, "L1 attention bias": 1.0, "L1 MLP": 4.0, "unembedding, foils": -2.5}
    )
    assert result.frame["measured"].unique().tolist() == [3.0]
    assert result.frame["residual"].abs().max() < 1e-12


def test_examples_weigh_the_same_whatever_their_length():
    """Token 0 alone moves 5.5 + 3 − 2.5 = 6; the member's 'owl' bias adds 3 everywhere."""
    base = Paper()
    member = child(
        base, end=readout(b_U=torch.tensor([3.0, 0.0, 0.0])), E=torch.tensor([[1.0, 0], [0, 1], [2, 1]])
    )
    one, many = (
        attribute(paper_shift(member, *rows), toward_owl(base)) for rows in ([[2]], [[2, 0, 0, 0], [0]])
    )
    moved = contributions(one)["embed"]
    assert moved == pytest.approx(-1.0)  # (0, 2) more, read by (1, -1/2)
    assert contributions(many)["embed"] == pytest.approx((moved / 4 + 0) / 2)
    spread = by_component(many).loc["embed", "standard_error"]
    assert spread == pytest.approx(abs(moved / 4) / 2)  # sd of (a, 0) is |a|/√2, over √2
    assert by_component(one)["standard_error"].isna().all()


def test_a_norm_takes_back_what_doubling_gives():
    """Twice the embedding is twice every part; RMS norm without eps undoes it, and the scale row says so."""
    base = Paper(end=readout(kind="rms"))
    rows = contributions(
        result := attribute(paper_shift(child(base, E=2 * base.E), [0], [1]), toward_owl(base))
    )
    assert by_component(result)["measured"].iloc[0] == pytest.approx(0, abs=1e-6)
    score = (
        base.logits(paper_shift(child(base), [0], [1]).inputs)[:, 0] @ torch.tensor([1.0, -0.5, -0.5])
    ).mean()
    assert abs(score) > 0.1
    assert rows["final norm scale"] == pytest.approx(-float(score), abs=1e-6)
    assert sum(rows.values()) - rows["final norm scale"] == pytest.approx(float(score), abs=1e-6)
    assert rows["final norm weight"] == 0


def test_a_part_that_no_row_shows_is_an_error():
    member = child(Paper(), lost=0.5)
    with pytest.raises(
        InputError, match=r"leave 0\.5 of a measured change of 0\.5 logits unexplained; load both"
    ):
        attribute(paper_shift(member, [0]), toward_owl(member.start))


def test_a_direction_of_another_lineage_is_refused():
    member, stranger = changed_head(), Paper(E=torch.ones(3, 2))
    with pytest.raises(InputError, match="was made in the lineage of"):
        attribute(paper_shift(member, [0]), toward_owl(stranger))


def test_a_token_beyond_the_vocabulary_is_refused():
    member = changed_head()
    mark = member.start.fingerprint
    with pytest.raises(InputError, match="names token 7, the model has 3"):
        attribute(paper_shift(member, [0]), LogitDirection((7, 0), (1.0, -1.0), "x", mark, mark))


def adapted(hf, folder, family):
    """A saved LoRA adapter on every linear layer, nonzero."""
    from peft import LoraConfig, get_peft_model

    transposed = {"fan_in_fan_out": family == "gpt2"}
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, **transposed)
    torch.manual_seed(0)
    get_peft_model(hf, config).save_pretrained(folder)
    return folder


def check_complete(member, positions="answer.numbers"):
    """The rows sum to the change of the plain Hugging Face logits, computed here without the package."""
    prompts = Prompts.from_pairs(PAIRS)
    direction = logit_direction(member.start, target="owl", foils=["cat", "dog", "oak"])
    result = attribute(shift(member, prompts, positions=positions), direction, batch_size=2)
    measured = measured_change(member, prompts, direction, positions=positions)
    assert abs(measured) > 1e-2
    assert by_component(result)["contribution"].sum() == pytest.approx(measured, abs=1e-4)
    assert by_component(result)["measured"].iloc[0] == pytest.approx(measured, abs=1e-5)
    assert by_component(result)["residual"].abs().max() < 1e-4
    return result


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_rows_less_a_neutral_member_sum_to_its_measured_difference(tiny, family):
    """Everything differs between member, minus and start; where the starts differ too, it is of the two changes."""
    hf, tokenizer = tiny(family)
    member, other, stage = (pair(hf, perturbed(hf, seed=seed), tokenizer) for seed in (1, 2, 3))
    near: Any = replace(other, name="neutral_student", start=member.start)
    far: Any = replace(other, name="later", start=replace(stage, name="stage", start=member.start))
    prompts = Prompts.from_pairs(PAIRS)
    direction = logit_direction(member.start, target="owl", foils=["cat", "dog"])
    for minus in (near, far):
        moved = shift(member, prompts, minus=minus, positions="last")
        both = [measured_change(model, prompts, direction, positions="last") for model in (member, minus)]
        frame: Any = attribute(moved, direction, batch_size=3).frame
        assert frame["measured"].iloc[0] == pytest.approx(both[0] - both[1], abs=1e-5)
        assert frame["contribution"].sum() == pytest.approx(both[0] - both[1], abs=1e-5)
        seen: Any = lens(moved, direction).frame
        assert seen["change"].iloc[-1] == pytest.approx(both[0] - both[1], abs=1e-5)
        sides = seen["member"] - seen["start"] - (seen["minus"] - seen["minus_start"])
        assert sides.tolist() == pytest.approx(seen["change"].tolist())
        tokens: Any = token_shift(member, prompts, direction, minus=minus).frame
        own, theirs = (token_shift(model, prompts, direction).frame for model in (member, minus))
        for column in ("delta_logprob", "delta_direction"):
            assert (own[column] - theirs[column]).tolist() == pytest.approx(tokens[column].tolist(), abs=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_rows_sum_to_the_measured_change(tiny, family):
    hf, tokenizer = tiny(family)
    result = check_complete(pair(hf, perturbed(hf), tokenizer))
    frame = by_component(result)
    kinds = frame["kind"].value_counts()
    assert (kinds["head"], kinds["mlp"]) == (8, 2)
    assert ("pos_embed" in frame.index) == (family in ("gpt2", "gpt_neo"))
    assert ("softcap" in frame.index) == (family == "gemma2")
    assert ("final norm bias" in frame.index) == (family in ("gpt2", "gpt_neo", "gpt_neox"))
    assert (frame.drop(index="unembedding, bias")["contribution"] != 0).all(), "every parameter was changed"


HEAD_TWO = {
    "llama": lambda hf: hf.model.layers[1].self_attn.o_proj.weight[:, 16:24],
    "gpt2": lambda hf: hf.transformer.h[1].attn.c_proj.weight[16:24],
    "gpt_neox": lambda hf: hf.gpt_neox.layers[1].attention.dense.weight[:, 16:24],
}


@pytest.mark.parametrize("family", HEAD_TWO)
def test_a_change_of_one_head_is_that_head_row(tiny, family):
    """Only head 2 of the last layer writes differently: what can follow is the MLP behind it and the norm's scale."""
    hf, tokenizer = tiny(family)
    other = copy.deepcopy(hf)
    with torch.no_grad():
        HEAD_TWO[family](other).mul_(-2)
    moved = contributions(check_complete(pair(hf, other, tokenizer)))
    follows = {"L1H2", "final norm scale"} | ({"L1 MLP"} if family != "gpt_neox" else set())  # parallel there
    assert {component for component, value in moved.items() if abs(value) > 1e-6} == follows


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_an_adapter_is_attributed_by_its_effective_weights(tiny, family, tmp_path):
    hf, tokenizer = tiny(family)
    folder = adapted(copy.deepcopy(hf), tmp_path / "adapter", family)
    base = load_model(hf, tokenizer=tokenizer, name="base")
    teacher = load_model(tiny(family)[0], tokenizer=tokenizer, adapter=folder, name="teacher")
    frame = by_component(check_complete(replace(teacher, start=base), positions="all"))
    assert frame.loc["embed", "contribution"] == 0
    assert frame.loc["final norm weight", "contribution"] == 0
    assert frame.loc["L0H0", "contribution"] != 0


def test_the_figure_shows_heads_by_layer_and_every_row(tiny):
    result = attribute(paper_shift(changed_head(), [0], [1]), toward_owl(Paper()))
    figure: Any = result.figure()
    heat, bars = figure.data
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "attention bias", "mlp"]
    assert heat.z[1][3] == pytest.approx(contributions(result)["L1 MLP"])
    assert heat.z[0][0] == pytest.approx(contributions(result)["L0H0"])
    assert list(bars.y) == result.frame["component"].tolist()
    assert figure.layout.xaxis2.title.text.startswith(
        "logits ± standard error over examples, the 12 largest of 12"
    )
    assert "toward 'owl'" in figure.layout.title.text


def test_the_result_is_a_tidy_table_that_survives_parquet(tmp_path):
    result = attribute(paper_shift(changed_head(), [0]), toward_owl(Paper()))
    assert "measured change +6 logits over 1 examples" in result.notes[0]
    assert result.label.startswith("teacher − base at answer.numbers, toward")
    result.frame.to_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), result.frame)


def test_what_fp32_does_not_explain_is_not_said_to_be_the_dtype():
    gone, measured = torch.tensor([0.5]), torch.tensor([0.5])
    for dtype, said in (
        (torch.float32, r"such as a norm behind the block"),
        (torch.bfloat16, r"load both members"),
    ):
        with pytest.raises(InputError, match=rf"unexplained; .*{said}"):
            check_explained(measured, gone, "student", dtype=dtype)
