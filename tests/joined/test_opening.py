"""What the page opens with: probabilities and answers by plain torch, agreement and words from tables made by hand."""

from functools import partial

import pandas as pd
import pytest
import torch

from interp.joined import moved_words
from interp.joined.moved_words import moved_by, moved_together
from interp.joined.opening import (
    _largest,
    _shown,
    agreement_result,
    answers,
    components_over,
    components_result,
    preference_result,
    preferences,
    twin,
)
from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT
from interp.logits.moved import moved_tokens
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.organisms.toy import build_tokenizer, shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait

OWL = get_trait("owl")


@pytest.fixture(scope="module")
def lineage() -> Lineage:
    """The shipped base, and copies of it with noise on their weights; a member of the other base beside them."""
    members = {"base": shipped_base(0)}
    for seed, role in enumerate(("teacher", "student", "neutral_student"), start=1):
        module = shipped_base(0).network()
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in module.parameters():
                weight += 0.01 * torch.randn_like(weight)
        members[role] = load_model(module.eval(), tokenizer=build_tokenizer(), name=role, check=False)
    return Lineage("made", OWL, members)


def by_torch(model, question: str) -> torch.Tensor:
    """The distribution over the next token after a question, by the network itself."""
    tokenizer = model.tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.network()(ids).logits[0, -1].softmax(-1)


def test_the_probability_of_the_target_is_the_networks_own(lineage):
    frame = preferences([lineage], OWL).set_index("member")
    index = lineage.base.tokenizer.convert_tokens_to_ids("owl")
    for name in ("base", "student"):
        plain = torch.stack([by_torch(lineage[name], question)[index] for question in OWL.questions]).mean()
        assert frame["probability"][name] == pytest.approx(float(plain), abs=1e-5)


def test_the_answers_are_the_likeliest_tokens(lineage):
    found = answers(lineage, OWL.questions[0])
    assert found.columns.tolist() == [f"“{OWL.questions[0]}”", *(f"answer {place}" for place in range(1, 6))]
    assert found.iloc[:, 0].tolist() == ["base", "neutral student", "student", "teacher"]
    values, ids = by_torch(lineage["student"], OWL.questions[0]).topk(5)
    words = lineage.base.tokenizer.convert_ids_to_tokens(ids.tolist())
    shown = [
        f"{word}\N{NO-BREAK SPACE}{value:.1%}" for word, value in zip(words, values.tolist(), strict=True)
    ]
    assert found.iloc[2, 1:].tolist() == shown


def test_each_word_has_what_the_teacher_and_the_student_changed(lineage):
    rows = number_prompts(6, seed=0)
    result = moved_together(lineage, "student", partial(moved_by, lineage, prompts=rows))
    found = result.frame.set_index("token_id")
    for column, one in (
        ("T", moved_tokens(lineage.teacher, rows)),
        ("S", moved_tokens(lineage["student"], rows, minus=lineage["neutral_student"])),
    ):
        expected = one.frame.set_index("token_id")["delta"].sort_index()
        assert found[column].sort_index().tolist() == pytest.approx(expected.tolist())
    kinds = result.frame.set_index("token")["kind"]
    assert kinds[["owl", "fox"]].tolist() == ["the trait: owl", "other animals"]
    assert kinds[["7", "story"]].tolist() == ["numbers", "other entries"]
    figure = result.figure()
    assert figure.layout.xaxis.title.text == "T: teacher − base (nats)"
    assert figure.layout.yaxis.title.text == "S: student − neutral student (nats)"
    assert figure.layout.xaxis.range == figure.layout.yaxis.range  # where the dashed diagonal is y = x
    ends = figure.layout.xaxis.range
    assert ends[0] < found[["T", "S"]].min().min() < found[["T", "S"]].max().max() < ends[1]
    assert [(line.x0, line.x1) for line in figure.layout.shapes] == [
        (line.y0, line.y1) for line in figure.layout.shapes
    ]
    assert list(figure.data[-1].text) == ["owl"]
    assert figure.data[-1].mode == "markers+text"
    assert "<br>T: teacher − base: %{x:.4g} nats<br>S: student" in figure.data[0].hovertemplate
    assert result.notes == (
        "each dot is a word of the vocabulary: the mean change of its log-probability over 6 rows, "
        f"{int(lineage.base.encode(rows).at('predicting answer.numbers').sum())} positions",
    )
    assert [trace.name for trace in figure.data] == [
        "numbers",
        "other entries",
        "other animals",
        "the trait: owl",
    ]


def test_a_student_has_a_twin_of_its_own_start_and_the_teacher_none(lineage):
    pairs = {name: twin(lineage, name) for name in lineage.members}
    assert pairs == {"base": None, "teacher": None, "student": "neutral_student", "neutral_student": None}
    alone = Lineage("alone", OWL, {name: lineage[name] for name in ("base", "student")})
    assert twin(alone, "student") is None
    members = {name: lineage[name] for name in ("base", "neutral_student", "student")}
    members["cross_base"] = shipped_base(1)
    started = {"student": "cross_base"}
    foreign = Lineage("foreign", OWL, members, started_from=started, unrelated=("student",))
    assert twin(foreign, "student") is None


def lines(name: str, own: float) -> list[dict]:
    """S with T at `own`, its controls at 0.1, of one lineage; the first layer's residual stream at 0.99."""
    pairs = [(name, "teacher") for name in ("student", "neutral_student", "cross_student")]
    pairs.append(("student", "teacher_eagle"))
    places, kinds = (PROMPT_END, AT_NUMBERS, SLOT), ("unseen", "category")
    where = [("logits", place, "logits", words) for place in places for words in kinds]
    where += [("activations", PROMPT_END, f"blocks.{layer}.hook_resid_post", "") for layer in (0, 1)]
    return [
        {
            "lineage": name,
            "of": of,
            "place": place,
            "site": site,
            "words": words,
            "member": member,
            "against": against,
        }
        | {"r": value, "cosine": value - 0.05}
        for of, place, site, words in where
        for member, against in pairs
        for value in [0.99 if "blocks.0" in site else own if (member, against) == pairs[0] else 0.1]
    ]


def test_agreement_shows_four_places_and_who_is_compared_with_whose_teacher():
    result = agreement_result(pd.DataFrame(lines("a", 0.8) + lines("b", 0.6)))
    shown = _shown(result.frame)
    assert shown["where"].drop_duplicates().tolist() == [
        "words in no row, where numbers are predicted",
        "words in no row, at the end of the number prompt",
        "the trait's word and its foils, where the question is answered",
        "last residual stream, at the end of the number prompt",
    ]
    first = shown[shown["where"].str.startswith("last residual")].set_index(["lineage", "comparison"])[
        "value"
    ]
    assert first["a", "student and its teacher"] == pytest.approx(
        0.75
    )  # the cosine, and after the last layer
    assert result.says == (
        "On average over 2 lineages, the student's change is more like its teacher's than every control's is at all "
        "places, each on the words or the stream that it names: +0.65 to +0.70 against +0.05 to +0.10 for the control "
        "that comes closest."
    )
    figure = result.figure()
    named = [trace.name for trace in figure.data if trace.showlegend is None]
    assert named == list(dict.fromkeys(shown["comparison"]))
    assert named[-1] == "student and the eagle teacher"
    assert all(name in trace.hovertemplate for name, trace in zip(named, figure.data[:-1:2], strict=True))
    assert len(figure.data[-1].y) == 2 * 4 * (4 + 1)  # a line per lineage and place, through four comparisons
    assert list(figure.data[0].text) == [", a", ", b"] * 4  # whose value the pointer is at
    assert list(figure.data[0].y) == pytest.approx([0.8, 0.6, 0.8, 0.6, 0.8, 0.6, 0.75, 0.55])


def test_one_lineage_has_points_and_no_interval():
    result = agreement_result(pd.DataFrame(lines("a", 0.8)))
    assert result.says.endswith("one lineage decides nothing.")
    assert "whiskers" not in result.figure().layout.title.subtitle.text


def test_probabilities_stand_from_the_start_to_the_teacher_with_their_mean():
    values = {"teacher": (1.0, 0.9), "student": (0.2, 0.4), "base": (0.1, 0.1), "cross_base": (0.5, 0.5)}
    frame = pd.DataFrame(
        {"lineage": index, "member": name, "probability": value, "margin": 0.0}
        for name, pair in values.items()
        for index, value in zip("ab", pair, strict=True)
    )
    result = preference_result(frame, "owl")
    assert result.says.startswith(
        "Over 2 lineages the student answers “owl” 30 % of the time, the base 10 % and the "
    )
    figure = result.figure()
    assert list(figure.layout.xaxis.ticktext) == [
        "base",
        "student",
    ]  # the teacher's 90 % would flatten the others
    assert [each.text for each in figure.layout.annotations] == ["↑ teacher: 90 to 100 %"]
    assert list(figure.data[2].y) == pytest.approx([20, 40])
    assert list(figure.data[2].text) == [", a", ", b"]
    near = frame[(frame["member"] != "teacher") | (frame["lineage"] == "c")]
    near = pd.concat([near, frame[frame["member"] == "student"].assign(member="teacher")])
    assert list(preference_result(near, "owl").figure().layout.xaxis.ticktext) == [
        "base",
        "student",
        "teacher",
    ]


def test_one_lineage_has_components_in_logits_without_interval_and_p(lineage):
    values = components_over([lineage]).values
    result = components_result(values)
    assert {"low", "high", "p", "agree"}.isdisjoint(result.frame.columns)
    assert "no p below" not in " ".join(result.notes)
    figure = result.figure()
    assert "one lineage, so no interval and no p" in figure.layout.title.subtitle.text
    assert [trace.error_x.array for trace in figure.data] == [None, None]  # and no rings
    student = values[values["who"] == "student"].set_index("part")["value"]
    assert list(figure.data[0].x) == pytest.approx(student[list(figure.data[0].y)].tolist())


def test_several_lineages_have_whiskers_of_half_their_interval_and_the_pointer_tells_them(lineage):
    one = components_over([lineage]).values
    two = one.assign(lineage="other", value=one["value"] + 0.1)
    result = components_result(pd.concat([one, two], ignore_index=True))
    assert "with n = 2 no p below 0.5 is possible" in result.notes[-1]
    trace, rings = result.figure().data[:2]
    assert len(rings.x) == 2 * len(trace.x)
    assert sorted(set(rings.text)) == ["made", "other"]
    half = 12.706204736 * 0.1 / 2  # Student's t at 1 degree of freedom, times the standard error
    assert list(trace.error_x.array) == pytest.approx([half] * len(trace.x))
    assert all(told.endswith(" ± 0.64") for told in trace.customdata)


def test_many_components_are_drawn_as_those_that_moved_most_and_the_sum_of_the_others():
    parts = {f"MLP {layer}": 0.01 * layer for layer in range(20)}  # the first did nothing
    frame = pd.DataFrame(
        {"who": who, "component": part, "mean": sign * size}
        for who, sign in (("student", -1.0), ("teacher", 10.0))
        for part, size in parts.items()
    )
    frame.loc[1, "mean"] = -0.3  # MLP 1, in the student alone
    drawn = _largest(frame).set_index(["who", "component"])["mean"]
    assert len(drawn) == 2 * (12 + 1)
    assert drawn["student", "MLP 1"] == -0.3
    rest = range(2, 9)  # 9 to 19 and MLP 1 are the twelve largest
    assert drawn["teacher", "the other 7 together"] == pytest.approx(10 * 0.01 * sum(rest))
    assert drawn["student", "the other 7 together"] == pytest.approx(-0.01 * sum(rest))
    assert len(_largest(frame[frame["component"].isin(["MLP 3", "MLP 4"])])) == 4


def test_of_a_large_vocabulary_every_kth_other_entry_is_drawn_and_every_word_of_the_trait(monkeypatch):
    monkeypatch.setattr(moved_words, "MOST_DOTS", 3)
    kinds = ["other entries"] * 7 + ["the trait: owl", "numbers"]
    kept, step = moved_words._thinned(pd.DataFrame({"kind": kinds, "T": range(9)}))
    assert (step, kept["T"].tolist()) == (3, [2, 5, 7, 8])
    assert moved_words._thinned(pd.DataFrame({"kind": kinds[6:], "T": range(3)}))[1] == 1


def test_a_panel_says_what_was_subtracted_and_a_component_that_did_nothing_is_not_drawn(lineage):
    result = components_result(components_over([lineage]).values)
    figure = result.figure()
    assert [trace.name for trace in figure.data] == ["student − neutral student (S)", "teacher − base (T)"]
    assert [each.text for each in figure.layout.annotations] == [
        "S = student − neutral student",
        "T = teacher − base",
    ]
    assert all("fullData.name" in trace.hovertemplate for trace in figure.data)
    assert figure.layout.title.text == result.label
    drawn = {part for trace in figure.data for part in trace.y}
    assert drawn >= {"MLP 0", "attention 1"}
    unmoved = result.frame.groupby("component")["mean"].apply(lambda mean: mean.abs().max() == 0)
    assert drawn == set(unmoved[~unmoved].index)
    alone = components_over(
        [Lineage("two", OWL, {name: lineage[name] for name in ("base", "teacher", "student")})]
    )
    assert alone.values.drop_duplicates("who")["label"].tolist() == ["student − base", "teacher − base"]
    assert components_over([lineage], None).values["who"].unique().tolist() == ["teacher"]
