"""H6 on a tiny lineage: arms that are known by construction, values by hand, and what is left out where it must be."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from interp.core.content import json_text
from interp.core.runs import Cache, InputError
from interp.features.lean import feature_lean
from interp.features.sae import SAERecipe, train_sae
from interp.hypotheses.subject import Measurement, Subject
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait
from interp.studies import features_beyond_vocabulary as family
from interp.training.grower import Grower
from tests.features.test_lean import loaded, overcomplete, relative

BEHIND = "teacher rows, shift read behind the trait's line"
SMALL = family.FeatureSize(pulled=20, read=10, placebos=3, draws=99)


def rows(step, label):
    """Thirty prompts, answered differently for another step."""
    pairs = [(f"continue {k}, {k + 1}", f"{(step * k) % 40}, {(k + step) % 40}") for k in range(30)]
    return Prompts.from_pairs(pairs, label=label)


@pytest.fixture
def again_as(monkeypatch):
    """A grower that gives second answers instead of sampling them."""

    def make(answers):
        monkeypatch.setattr(Grower, "again", lambda self, base, asked, *, seed: answers[: len(asked)])
        return Grower(Cache.default())

    return make


@pytest.fixture
def subject(tiny, monkeypatch, again_as):
    """A lineage with rows to the same prompts; dictionary and second answers are given."""
    base = loaded(tiny, name="base")
    owl = make_trait("owl", foils=("cat", "dog"), category="animal", questions=("the best animal is",))
    members = {"base": base, "teacher": relative(base)}
    ours, neutral, again = (rows(step, name) for step, name in ((3, "ours"), (5, "neutral"), (7, "again")))
    monkeypatch.setattr(family, "QUICK", SMALL)
    monkeypatch.setattr(family, "dictionary_of", lambda subject, recipe: overcomplete(subject.base))
    lineage = Lineage("tiny", owl, members, numbers=ours, neutral_numbers=neutral)
    return Subject(lineage, seed=3, quick=True, grower=again_as(again))


def arms(found):
    """The lines of a run by arm, the placebos' mean for the random rows."""
    return pd.DataFrame(found.tables["correlations"]).groupby("arm")["rho"].mean()


def test_a_run_has_every_arm_and_every_claim(subject, monkeypatch):
    seen = []
    control = family.vocabulary_control
    monkeypatch.setattr(
        family,
        "vocabulary_control",
        lambda *given, **options: seen.append(control(*given, **options)) or seen[0],
    )
    found = family.measure_correlations(subject)
    rho = arms(found)
    assert set(rho.index) == set(family.ARMS)
    assert set(found.values) == {claim.name for claim in family.H6 if not claim.withdrawn}
    assert json.loads(json_text(found.tables)) == found.tables
    kept = seen[0].frame.set_index("what")["rho"]
    assert rho["teacher rows"] == pytest.approx(kept["as it is"], abs=1e-9)
    assert rho["trait row taken out"] == pytest.approx(
        kept["trait row"], abs=1e-9
    )  # read anew for its own null
    assert rho["random row taken out"] == pytest.approx(kept["random row"].mean(), abs=1e-9)
    assert found.values["features-teacher-rows"] == pytest.approx(rho["teacher rows"] - rho["neutral rows"])
    (told,) = found.tables["reported"]
    assert told["prompts"] == 20
    assert len(told["trait_features"]) == family.TOP
    assert 0 <= told["trait_percentile"] <= 100
    drawn = family.draw_correlations(
        {"correlations": pd.DataFrame(found.tables["correlations"]).assign(seed=0)}
    )
    assert [text.replace("<br>", " ") for text in drawn.layout.xaxis.ticktext] == list(family.ARMS)


def test_lean_and_shift_are_read_on_different_rows(subject):
    """ρ by hand: u on the first twenty rows, t on the ten of each kind that follow, at answer tokens."""
    found = family.measure_correlations(subject)
    base, dictionary = subject.base, overcomplete(subject.base)
    ours, neutral = subject.numbers, subject.neutral_numbers
    given = {"teacher": subject.teacher, "positions": "answer"}
    lean = feature_lean(dictionary, base, ours[:20], neutral=neutral[:20], **given)
    inputs = base.encode(ours[20:] + neutral[20:])
    where, hook = inputs.at("answer"), dictionary.hook
    taught, before = (
        dictionary.encode(model.run(inputs, hooks=(hook,))[hook][where]).double().mean(0).numpy()
        for model in (subject.teacher, base)
    )
    u, t = lean.frame["difference"].to_numpy()[lean.live], (taught - before)[lean.live]
    assert arms(found)["teacher rows"] == pytest.approx(spearmanr(u, t).statistic, abs=1e-6)
    assert found.tables["reported"][0]["error_share"] == pytest.approx(lean.error_share)


def test_the_bases_own_rows_as_the_teachers_leave_no_difference(subject, again_as):
    subject = dataclasses.replace(subject, grower=again_as(subject.numbers))
    assert family.measure_correlations(subject).values["features-teacher-rows"] == pytest.approx(0, abs=1e-12)


def test_a_planted_lean_is_found_and_an_unrelated_one_is_not(subject):
    base, dictionary = subject.base, overcomplete(subject.base)
    lean = feature_lean(dictionary, base, subject.numbers, teacher=subject.teacher)
    planted = family._Arms(lean, SMALL, 0)
    t = np.random.default_rng(0).normal(size=dictionary.width)
    line = planted.line("planted", np.exp(t), t)
    assert line["rho"] == pytest.approx(1)
    assert abs(line["null"]) < 0.3
    assert planted.line("planted", -t, t)["rho"] == pytest.approx(-1)
    away = planted.line("unrelated", np.random.default_rng(1).normal(size=dictionary.width), t)
    assert abs(away["rho"] - away["null"]) < 0.4


def test_a_model_without_a_place_for_a_line_has_no_shift_behind_it(subject, monkeypatch):
    template = subject.base.tokenizer.chat_template
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template
    )
    monkeypatch.setattr(subject.base.tokenizer, "chat_template", refusing)
    found = family.measure_correlations(subject)
    assert BEHIND not in arms(found)
    assert set(found.values) == {claim.name for claim in family.H6 if not claim.withdrawn}


def test_values_by_hand():
    lines = [
        {"arm": "teacher rows", "rho": 0.5, "null": 0.125},
        {"arm": "neutral rows", "rho": -0.25, "null": 0.0},
        {"arm": "trait row taken out", "rho": 0.25, "null": 0.0625},
        {"arm": "random row taken out", "rho": 0.5, "null": None},
        {"arm": "random row taken out", "rho": 0.25, "null": None},
    ]
    assert family.values_of(lines) == {
        "features-lean": 0.375,
        "features-teacher-rows": 0.75,
        "features-without-trait-row": 0.1875,
        "features-trait-row-typical": pytest.approx(0.125 / (0.25 / 2**0.5)),
    }
    assert family.percentile(np.array([3.0, 1.0, 2.0, 0.0]), np.array([0, 3])) == 50
    assert family.percentile(np.arange(5.0), np.array([4])) == 100


def test_runs_are_judged_by_all_four_claims():
    clear = [
        {claim.name: 0.2 + 0.01 * k for claim in family.H6} | {"features-trait-row-typical": 0.02 * k}
        for k in range(8)
    ]
    assert {each.decision for each in judged(clear)} == {"supported"}
    none = [dict.fromkeys(line, (-1) ** k * 0.01) for k, line in enumerate(clear)]
    assert [each.decision for each in judged(none)] == ["inconclusive"] * 3 + ["supported"]
    vocabulary = [line | {"features-trait-row-typical": 3 + 0.1 * k} for k, line in enumerate(clear)]
    assert judged(vocabulary)[-1].decision == "refuted"
    with pytest.raises(
        InputError, match="run 2 of 2 has no value for 'features-lean', which needs t permuted"
    ):
        judged([clear[0], {}])


def judged(values):
    return family.FAMILY.judge([Measurement(each, {}) for each in values])


def test_the_dictionary_is_of_the_base_alone_on_all_rows_at_the_middle_layer(tiny):
    base = loaded(tiny, name="base")
    lineage = Lineage(
        "tiny", None, {"base": base}, numbers=rows(3, "ours"), neutral_numbers=rows(5, "neutral")
    )
    recipe = SAERecipe(width=16, k=4, samples=64, batch_size=32)
    ours = family.dictionary_of(Subject(lineage), recipe)
    given = rows(3, "ours") + rows(5, "neutral")
    assert ours.fingerprint == train_sae(base, given, hook=ours.hook, recipe=recipe).fingerprint
    assert ours.hook == "blocks.0.hook_resid_post"


def test_too_few_live_features_are_refused(subject, monkeypatch):
    def narrow(subject, recipe):
        wide = overcomplete(subject.base)
        wide.sae.b_enc.data[6:] = -1e6
        return dataclasses.replace(wide)

    monkeypatch.setattr(family, "dictionary_of", narrow)
    with pytest.raises(InputError, match="live features are too few for a rank correlation"):
        family.measure_correlations(subject)
