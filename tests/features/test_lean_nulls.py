"""Rank correlation of lean and shift: exact ranks, calibrated p-values, and vocabulary told apart from the rest."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest

from interp.core.runs import InputError
from interp.features.lean import FeatureLean, feature_lean
from interp.features.lean_nulls import feature_groups, lean_correlation, vocabulary_control
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait
from interp.stats.ranks import permuted_null, spearman
from tests.features.handmade import ROWS
from tests.features.test_lean import loaded, overcomplete, relative

PROMPTS = Prompts.from_pairs(ROWS, label="rows")
SIMULATIONS, DRAWS = 300, 199


def statistics(count: int, rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": np.arange(count),
            "rate": rng.uniform(0.01, 1, count),
            "mean": rng.uniform(0.1, 2, count),
            "decoder_norm": rng.uniform(0.5, 1.5, count),
            "live": True,
        }
    )


def p_value(rho: float, null: np.ndarray) -> float:
    return (int((null >= rho - 1e-12).sum()) + 1) / (len(null) + 1)


def test_strata_hold_features_that_are_alike():
    table = statistics(200, np.random.default_rng(1))
    table["rate"] = np.where(np.arange(200) % 2, 0.9, 0.001)  # by far the widest difference
    groups = feature_groups(table, np.arange(200))
    sizes = np.bincount(groups)
    assert sizes.min() >= 5
    assert sizes.max() < 12
    mixed = [len(set(table["rate"][groups == group])) for group in range(len(sizes))]
    assert max(mixed) == 1


def test_the_matched_p_is_uniform_when_shift_and_lean_share_frequency_only():
    """Both grow with frequency, so that ρ is high; given the frequency they are independent."""
    rng, ps, naive = np.random.default_rng(2), [], []
    for simulation in range(SIMULATIONS):
        level = np.repeat([0.01, 0.1, 1.0], 10)
        table = statistics(30, rng).assign(rate=level, mean=1.0, decoder_norm=1.0)
        u, t = (10 * level + rng.normal(size=30) for _ in range(2))
        groups = feature_groups(table, np.arange(30))
        ps.append(p_value(spearman(u[None], t)[0], permuted_null(u, t, groups, draws=DRAWS, seed=simulation)))
        alone = np.ones(30, dtype=int)
        naive.append(
            p_value(spearman(u[None], t)[0], permuted_null(u, t, alone, draws=DRAWS, seed=simulation))
        )
    assert np.mean(naive) < 0.1  # what matching is for
    assert kstest(ps, "uniform").pvalue > 0.01


def test_a_planted_correlation_is_found():
    rng = np.random.default_rng(5)
    t = rng.normal(size=40)
    frame = pd.DataFrame({"feature": [*range(40), -1], "live": True, "teacher_shift": np.append(t, 0.0)})
    noise = torch.from_numpy(rng.normal(size=(50, 40))).float()
    lean = FeatureLean("planted", frame, torch.from_numpy(t).float() + noise, noise.roll(1, 0))
    lean = dataclasses.replace(
        lean, frame=frame.assign(**statistics(41, rng).drop(columns=["feature", "live"]))
    )
    found = lean_correlation(lean, draws=999).frame.set_index("what")
    assert found["rho"].min() > 0.7
    assert found["p"].max() <= 0.002


@pytest.fixture
def owl():
    return make_trait("owl", foils=("cat", "dog"), category="animal", questions=("the best animal is",))


class TestVocabulary:
    def test_a_lean_through_the_targets_row_goes_with_it(self, tiny, owl):
        """Number rows that share a direction with the target's row: the pull along it is gone once it is taken out."""
        model = loaded(tiny)
        head = model.hf.lm_head.weight
        target = model.tokenizer.convert_tokens_to_ids("owl")
        numbers = [model.tokenizer.convert_tokens_to_ids(str(number)) for number in range(40)]
        with torch.no_grad():
            signs = torch.where(torch.arange(40) % 2 == 0, 3.0, -3.0)
            head[numbers] += signs[:, None] * head[target] / head[target].norm()
        model = loaded_again(model)
        teacher, dictionary = relative(model), overcomplete(model, "blocks.1.hook_resid_post")
        lean = feature_lean(dictionary, model, PROMPTS, teacher=teacher)
        along = (dictionary.decoder @ (head[target] / head[target].norm()).detach()).numpy()
        shift = along * np.sign(along @ lean.by_prompt.mean(0).numpy())
        planted = lean.frame.assign(teacher_shift=np.append(shift, 0.0))
        lean = dataclasses.replace(lean, frame=planted)
        found = vocabulary_control(dictionary, model, lean, trait=owl, placebos=9).frame
        rho = found.groupby("what")["rho"].mean()
        assert rho["trait row"] < rho["random row"] - 0.1
        assert found.loc[found["what"] == "trait row", "p"].item() <= 0.2

    def test_its_shape_and_what_it_draws(self, tiny, owl):
        model = loaded(tiny)
        teacher, dictionary = relative(model), overcomplete(model)
        lean = feature_lean(dictionary, model, PROMPTS, teacher=teacher)
        result = vocabulary_control(dictionary, model, lean, trait=owl, placebos=3)
        assert result.frame["what"].tolist() == ["as it is", "trait row", *["random row"] * 3]
        as_it_is = lean_correlation(lean, draws=99)
        assert result.frame["rho"][0] == pytest.approx(as_it_is.frame["rho"][0])
        assert result.figure().data

    def test_neutral_rows_and_positions_are_those_of_the_lean(self, tiny, owl):
        model = loaded(tiny)
        dictionary = overcomplete(model)
        neutral = Prompts.from_pairs([(prompt, "1, 2, 3") for prompt, _ in ROWS[1:]], label="neutral")
        lean = feature_lean(
            dictionary, model, PROMPTS, teacher=relative(model), neutral=neutral, positions="answer"
        )
        result = vocabulary_control(dictionary, model, lean, trait=owl, placebos=2)
        as_it_is = lean_correlation(lean, draws=99)
        assert as_it_is.frame["what"].tolist() == ["matched features", "neutral teacher"]
        assert result.frame["rho"][0] == pytest.approx(as_it_is.frame["rho"][0])

    def test_another_model(self, tiny, owl):
        model = loaded(tiny)
        dictionary, teacher = overcomplete(model), relative(model, size=0.5)
        lean = feature_lean(dictionary, model, PROMPTS, teacher=teacher)
        with pytest.raises(InputError, match="the lean was read at another model or with another dictionary"):
            vocabulary_control(dictionary, teacher, lean, trait=owl, placebos=2)

    def test_a_target_that_is_a_number(self, tiny):
        model = loaded(tiny)
        dictionary = overcomplete(model)
        lean = feature_lean(dictionary, model, PROMPTS, teacher=relative(model))
        seven = make_trait("7", foils=("8", "9"), category="number", questions=("the best number is",))
        with pytest.raises(InputError, match="the target '7' begins with a number token"):
            vocabulary_control(dictionary, model, lean, trait=seven, placebos=2)

    def test_too_few_placebos(self, tiny, owl):
        model = loaded(tiny)
        dictionary = overcomplete(model)
        lean = feature_lean(dictionary, model, PROMPTS, teacher=relative(model))
        with pytest.raises(InputError, match="1 random rows have no spread; ask for at least 2"):
            vocabulary_control(dictionary, model, lean, trait=owl, placebos=1)


def loaded_again(model):
    from interp.models.language import load_model

    return load_model(model.hf, tokenizer=model.tokenizer, name="model", check=False)


class TestErrors:
    def test_without_a_teacher(self, tiny):
        model = loaded(tiny)
        lean = feature_lean(overcomplete(model), model, PROMPTS)
        with pytest.raises(InputError, match="read without a teacher, so there is no shift to correlate"):
            lean_correlation(lean)

    def test_too_few_features(self):
        frame = pd.DataFrame({"feature": [0, 1, -1], "live": True, "teacher_shift": 0.0, "lean": 0.0})
        lean = FeatureLean("few", frame, torch.zeros(3, 2))
        with pytest.raises(
            InputError, match="2 live features are too few for a rank correlation; at least 8"
        ):
            lean_correlation(lean)
