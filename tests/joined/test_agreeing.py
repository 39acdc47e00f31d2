"""Agreement on networks whose changes are known: planted along the teacher's, across it, and against plain torch."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp import agreement
from interp.core.runs import InputError
from interp.joined.agreeing import ALL
from interp.joined.places import AT_NUMBERS, PROMPT_END, SLOT, chosen_words
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait

ROWS = number_prompts(6, seed=0, count=3, max_value=39)
MATRIX = "lm_head.weight"


@pytest.fixture
def planted(tiny):
    """A lineage whose members differ from the base by these multiples of two random changes of one matrix."""

    def make(changes, *, matrix=MATRIX, family="llama", trait="owl", **more):
        members = {}
        for role, (along, across) in changes.items():
            network, tokenizer = tiny(family)
            weight = network.get_parameter(matrix)
            draw = torch.Generator().manual_seed(3)
            one, other = (torch.randn(weight.shape, generator=draw) for _ in range(2))
            with torch.no_grad():
                weight += along * one + across * other
            members[role] = load_model(network.eval(), tokenizer=tokenizer, name=role, check=False)
        chosen = None if trait is None else get_trait(trait)
        return Lineage("planted", chosen, members, numbers=ROWS, **more)

    return make


CHANGES = {
    "base": (0.0, 0.0),
    "teacher": (0.2, 0.0),
    "teacher_eagle": (0.0, 0.2),
    "control_teacher": (0.05, 0.1),
    "student": (0.11, 0.3),
    "neutral_student": (0.01, 0.3),
    "control_student": (0.05, 0.3),
}


def line(found, member="student", against="teacher", **where):
    frame = found.frame
    for column, value in {"member": member, "against": against, **where}.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_a_student_that_moved_half_as_far_along_its_teacher_agrees_fully(planted):
    """Logits are linear in the unembedding, so S = 0.5 T at every position, whatever the neutral student did."""
    found = agreement(planted(CHANGES), at=[PROMPT_END, AT_NUMBERS], words=["unseen", "all"], prompts=ROWS)
    for place in (PROMPT_END, AT_NUMBERS):
        for words in ("unseen", "all"):
            own = line(found, place=place, words=words)
            assert (own["r"], own["cosine"], own["slope"]) == pytest.approx((1.0, 1.0, 0.5), abs=1e-4)
            other = line(found, against="teacher_eagle", place=place, words=words)
            assert abs(other["r"]) < 0.9
    assert "its own teacher is first of 2 in 1 of 1 lineages" in found.notes[0]


def test_both_sides_are_taken_less_the_control_that_was_taught_no_trait(planted):
    lineage = planted(CHANGES | {"control_teacher": (0.05, 0.0)})
    found = agreement(lineage, at=[PROMPT_END], words=["all"], prompts=ROWS)
    fair = line(found, "student less control_student", "teacher less control_teacher")
    assert (fair["r"], fair["slope"]) == pytest.approx((1.0, 0.06 / 0.15), abs=1e-4)


def test_updates_are_compared_by_matrix_and_as_a_whole(planted):
    found = agreement(planted(CHANGES), of="updates")
    own = line(found, site=ALL)
    assert (own["cosine"], own["slope"]) == pytest.approx((1.0, 0.5), abs=1e-4)
    assert set(found.frame["site"]) == {MATRIX, ALL}
    neutral = line(found, "neutral_student", site=ALL)  # 0.01 along T and 0.3 across it
    assert neutral["slope"] == pytest.approx(0.05, abs=0.1)
    assert "" in set(found.frame["place"])


def test_the_last_residual_stream_follows_the_last_matrix(planted):
    lineage = planted(CHANGES, matrix="model.layers.1.mlp.down_proj.weight")
    found = agreement(lineage, of="activations", at=[PROMPT_END], prompts=ROWS)
    first, last = (f"blocks.{layer}.hook_resid_post" for layer in (0, 1))
    assert line(found, site=last)["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert np.isnan(line(found, site=first)["r"])  # nothing moved there


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox"])
def test_the_number_is_that_of_plain_transformers(tiny, family):
    """r over all words of the change of mean logits at the last prompt token, by plain forward passes."""
    networks = []
    for seed in range(4):
        network, tokenizer = tiny(family)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.02 * seed * torch.randn_like(weight)
        networks.append(network.eval())
    roles = ("base", "teacher", "neutral_student", "student")
    models = {
        role: load_model(network, tokenizer=tokenizer, name=role, check=False)
        for role, network in zip(roles, networks, strict=True)
    }
    lineage = Lineage("tiny", get_trait("owl"), models)
    found = agreement(lineage, at=[PROMPT_END], words=["all"], prompts=ROWS)
    tokens = models["base"].encode(ROWS)
    last = tokens.at("last")
    means = {}
    for role, network in zip(roles, networks, strict=True):
        with torch.no_grad():
            logits = network(input_ids=tokens.ids, attention_mask=tokens.mask.long()).logits
        means[role] = logits[last].double().mean(0).numpy()
    s, t = means["student"] - means["neutral_student"], means["teacher"] - means["base"]
    assert line(found)["r"] == pytest.approx(np.corrcoef(s, t)[0, 1], abs=1e-5)
    assert line(found, "neutral_student")["r"] == pytest.approx(
        np.corrcoef(means["neutral_student"] - means["base"], t)[0, 1], abs=1e-5
    )


def test_unseen_words_are_in_no_row_and_the_category_is_the_candidates(planted):
    lineage = planted(CHANGES)
    texts = [lineage.base.tokenizer.decode([index]).strip() for index in chosen_words(lineage, "unseen")]
    assert not any(any(map(str.isdigit, text)) for text in texts)
    assert not set(texts) & {word for row in ROWS.rows for word in row.prompt.split()}


def test_several_lineages_are_averaged_and_counted(planted):
    lineages = [planted(CHANGES), planted(CHANGES | {"student": (-0.1, 0.3)})]
    lineages = [
        Lineage(f"planted {n}", each.trait, each.members, numbers=ROWS) for n, each in enumerate(lineages)
    ]
    found = agreement(lineages, at=[PROMPT_END], words=["all"], prompts=ROWS)
    told = r"r of student with teacher [-+]0\.00 ± 12\.71 \(95 % t-interval\), 1 of 2 positive"  # ±1 but for rounding
    assert re.search(told, found.notes[0])
    assert len(found.frame["lineage"].unique()) == 2
    found.figure()


def test_features_are_those_of_the_lineages_dictionary(planted, monkeypatch):
    """With a dictionary made by hand: f = relu(h) and relu(−h), so that f⁺ − f⁻ = h, and no cross student is read."""
    lineage = planted(CHANGES, matrix="model.layers.0.mlp.down_proj.weight")
    read = []

    def differences(dictionary, after, before, rows, *, positions):
        read.append((after.name, before.name, positions))
        change = {"student": 0.5, "neutral_student": 0.0, "base": 0.0}.get(after.name, 1.0)
        return change * torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5])

    monkeypatch.setattr("interp.joined.agreeing.feature_differences", differences)
    monkeypatch.setattr(
        "interp.joined.agreeing.default_dictionary", lambda lineage: SimpleNamespace(hook="somewhere")
    )
    found = agreement(lineage, of="features", at=[PROMPT_END], prompts=ROWS)
    own = line(found, place=PROMPT_END)
    assert (own["r"], own["slope"], own["entries"]) == (pytest.approx(1.0), pytest.approx(0.5), 4)
    assert ("student", "neutral_student", "last") in read
    assert set(found.frame["of"]) == {"features"}


def test_what_is_lacking_is_named(planted):
    lineage = planted(CHANGES, trait=None)
    with pytest.raises(InputError, match=r"has no trait whose questions are asked; load it with trait="):
        agreement(lineage, at=[SLOT], words=["all"])
    with pytest.raises(InputError, match=r"place 'prompts end' .*prompt end"):
        agreement(lineage, at=["prompts end"], words=["all"])
    with pytest.raises(InputError, match=r"words 'unsene' .*unseen"):
        agreement(lineage, at=[PROMPT_END], words=["unsene"])
    with pytest.raises(InputError, match=r"member .cross_student"):
        agreement(lineage, "cross_student", at=[PROMPT_END])
    with pytest.raises(InputError, match=r"1 candidates are given with 2 lineages"):
        agreement([lineage, lineage], candidates={"fox": lineage.teacher})
    with pytest.raises(InputError, match="no lineage is given; pass at least one"):
        agreement([])
