"""A recipe that knows whether it worked: numbers by hand, the rate that is picked, and what is refused with them."""

import dataclasses
import json
import math
import re

import pytest
import torch

from interp.core.runs import Cache, InputError
from interp.experiment.arms import Arms
from interp.experiment.bases import prepare_base
from interp.experiment.checks import (
    ANSWERS,
    HELD_OUT,
    SEED,
    FormatCheck,
    TeacherCheck,
    check_base,
    check_teacher,
    measure_format,
)
from interp.experiment.outcome import checks_table
from interp.experiment.recipe import CheckSpec
from interp.models.language import load_model
from interp.prompts.traits import get_trait
from interp.training.data import DataSpec
from interp.training.teachers import Stopped, Teacher, neutral_teacher

FINE = FormatCheck(kept=0.8, candidates=0.5, loss=7.4, even=6.9)
OWL = get_trait("owl")


class TestNumbers:
    @pytest.fixture
    def model(self, tiny):
        hf, tokenizer = tiny("llama")
        return load_model(hf, tokenizer=tokenizer, name="base", check=False).accepting_unknown()

    def test_they_are_those_of_plain_transformers(self, model, tmp_path):
        data = DataSpec(prompts="short", count=3, digits=1)
        found = measure_format(model, data=data, traits=[OWL], cache=Cache(tmp_path))
        rows = data.uniform_rows(HELD_OUT, seed=SEED)
        total, numbers = 0.0, 0
        for row in rows.rows:
            encoded = model.encode(rows[[rows.rows.index(row)]])
            ids, labelled = encoded.ids[0][encoded.mask[0]], encoded.at("answer+end")[0][encoded.mask[0]]
            logp = model.hf(ids[None]).logits[0].detach().log_softmax(-1)
            for place in torch.nonzero(labelled)[:, 0].tolist():
                total -= float(logp[place - 1, ids[place]])
            numbers += len(re.findall("[0-9]+", row.completion))
        assert numbers == 3 * HELD_OUT
        assert found.loss == pytest.approx(total / numbers, rel=1e-5)
        assert found.even == pytest.approx(math.log(10))
        asked = data.requests(ANSWERS, seed=SEED)
        answers = data.answer(neutral_teacher(model), asked, seed=SEED)
        good = [
            re.fullmatch(r"[0-9](, ?[0-9]|; ?[0-9]| [0-9]){0,2}\.?", row.completion) for row in answers.rows
        ]
        assert found.kept == pytest.approx(sum(map(bool, good)) / ANSWERS, abs=0.05)
        assert 0 < found.candidates < 0.5

    def test_the_score_is_what_a_rate_is_picked_by(self):
        assert FINE.score == pytest.approx(math.log(0.8 * 0.5) - 0.5)
        assert dataclasses.replace(FINE, candidates=0.0).score == -math.inf
        none, worse = (dataclasses.replace(FINE, kept=0.0, loss=loss) for loss in (7.4, 9.0))
        assert none.score == pytest.approx(math.log(0.5 / 64 * 0.5) - 0.5)  # half an answer of the 64 asked
        assert none.score > worse.score  # where nothing is kept, the loss decides
        assert FormatCheck(1.0, 1.0, 6.9, 6.9).score == 0

    def test_what_is_not_as_asked_is_named(self):
        assert FINE.faults(CheckSpec()) == []
        broken = FormatCheck(kept=0.125, candidates=0.05, loss=9.0, even=6.9)
        assert broken.faults(CheckSpec()) == [
            "at least 25% kept (checks.kept)",
            "candidates of 10% (checks.candidates)",
            "at most 1 nats above an even draw (checks.excess)",
        ]
        assert broken.faults(CheckSpec(), formatted=False) == ["at least 25% kept (checks.kept)"]
        assert FormatCheck(math.nan, 1.0, math.nan, 1.0).faults(CheckSpec(candidates=0)) != []

    def test_a_base_that_does_not_answer_is_refused_with_its_numbers(self):
        check_base(FINE, CheckSpec(), name="base", rate=1e-3, trials={})
        broken = FormatCheck(kept=0.125, candidates=0.5, loss=7.0, even=6.9)
        with pytest.raises(InputError) as caught:
            check_base(broken, CheckSpec(), name="base", rate=2e-3, trials={2e-3: broken, 1e-3: broken})
        assert str(caught.value) == (
            "base does not answer after its format fine-tune at a learning rate of 0.002: the rule keeps 12% of 64 "
            "answers, candidates hold 50.0% of the probability, a held-out number costs 7.00 nats (6.90 as an even "
            "draw), and asked for are at least 25% kept (checks.kept); list lower and higher rates than those of 0.001 "
            "to 0.002 in base.format.rates, or give it more base.format.rows"
        )
        with pytest.raises(
            InputError, match=r"as it is: .*; teach it the format with base.format, or ask more"
        ):
            check_base(broken, CheckSpec(), name="base", rate=None, trials={})


class TestRates:
    def spec(self, experiment, *rates):
        rows = {"rows": 768, "questions": 256, "rates": rates, "fraction": 0.5}
        return dataclasses.replace(
            experiment.base, format=dataclasses.replace(experiment.base.format, **rows)
        )

    def test_the_rate_that_answers_best_is_trained_in_full_and_kept(self, experiment, tmp_path, caplog):
        caplog.set_level("INFO", logger="interp")
        given = {
            "data": experiment.data,
            "traits": [OWL],
            "checks": experiment.checks,
            "cache": Cache(tmp_path),
        }
        plain = prepare_base(self.spec(experiment), **given)
        picked = prepare_base(
            self.spec(experiment, 1.0, 1e-6, 1e-2), **given
        )  # breaks it, teaches nothing, teaches
        assert plain.trials == {}
        assert (picked.rate, list(picked.trials)) == (1e-2, [1.0, 1e-6, 1e-2])
        assert picked.trials[1e-2].score > max(picked.trials[1e-6].score, picked.trials[1.0].score)
        assert picked.model.fingerprint == plain.model.fingerprint  # trained on all rows at the declared rate
        assert picked.check == plain.check
        assert "base, a short format fine-tune at 1e-06: the rule keeps " in caplog.text
        assert "base, format taught at 0.01: the rule keeps " in caplog.text
        with pytest.raises(InputError, match="after its format fine-tune at a learning rate of 1e-06: "):
            prepare_base(self.spec(experiment, 1e-6), **given)


class TestStarts:
    """What a base is made from; no format is checked."""

    @pytest.fixture
    def made(self, experiment, tmp_path):
        easy = CheckSpec(kept=0.0, candidates=0.0, excess=100.0)
        given = {"data": experiment.data, "traits": [OWL], "checks": easy, "cache": Cache(tmp_path)}
        return lambda **how: prepare_base(dataclasses.replace(experiment.base, **how), **given).model

    def test_noise_moves_every_weight_by_its_share(self, made):
        plain, moved = (made(format=None, noise=share).parameters() for share in (None, 0.05))
        for name, weight in plain.items():
            size = (moved[name] - weight).double().square().mean().sqrt()
            assert float(size / weight.double().square().mean().sqrt()) == pytest.approx(0.05, rel=0.35), name

    def test_a_format_adapter_is_kept_as_one_and_its_base_knows_it(self, made, experiment):
        recipe = dataclasses.replace(
            experiment.base.format.recipe, trainable="lora", rank=2, merge=False, epochs=1
        )
        few = dataclasses.replace(experiment.base.format, rows=64, questions=64, rates=(), recipe=recipe)
        base = made(format=few)
        assert base.merged_from.checkpoint == made(format=None).fingerprint != base.fingerprint
        assert {path.name for path in base.merged_from.adapter.glob("*.safetensors")} == {
            "adapter_model.safetensors"
        }
        assert made(format=few).fingerprint == base.fingerprint


class TestTeachers:
    @pytest.fixture
    def teacher(self, tiny):
        hf, tokenizer = tiny("llama")
        model = load_model(hf, tokenizer=tokenizer, name="teacher", check=False).accepting_unknown()
        return Teacher(model, "fine-tuned", stopped=Stopped(2.0, 7, 2.5, True))

    def known(self, teacher, cache, found):
        """The teacher's numbers as if they had been measured."""
        given = {"data": DataSpec(prompts="short", count=3, digits=1), "cache": cache}
        check_teacher(teacher, OWL, CheckSpec(kept=0.0), **given)
        (path,) = cache.root.rglob("check.json")
        path.write_text(json.dumps(found))
        return given

    def test_its_numbers_and_the_sentences_of_those_that_are_not_as_asked(self, teacher, tmp_path):
        given = self.known(teacher, Cache(tmp_path), {"kept": 0.5, "margin": 12.0})
        found = check_teacher(teacher, OWL, CheckSpec(), **given)
        assert found == TeacherCheck(0.5, 12.0, 7, True)
        assert str(found) == "the rule keeps 50% of 64 answers, trait margin +12.00 nats after 7 steps"
        with pytest.raises(
            InputError, match=r"of owl hardly writes rows: the rule keeps 50% of 64 answers, and asked"
        ):
            check_teacher(teacher, OWL, CheckSpec(kept=0.6), **given)
        with pytest.raises(
            InputError,
            match=r"margin of \+12.00 nats after 7 steps, and asked for are 2 to 8 .*; set teacher.stop_at_margin",
        ):
            check_teacher(teacher, OWL, CheckSpec(teacher=(2.0, 8.0)), **given)
        with pytest.raises(
            InputError,
            match=r"asked for are 15 to 20 \(checks.teacher\); raise teacher.steps or its learning",
        ):
            check_teacher(teacher, OWL, CheckSpec(teacher=(15.0, 20.0)), **given)

    def test_a_run_has_a_table_of_them(self, experiment, tmp_path):
        arms = Arms(dataclasses.replace(experiment, traits=("owl",), controls=("neutral",)), Cache(tmp_path))
        table = checks_table(arms).set_index("what")
        assert list(table.index) == ["base", "cross_base", "teacher of owl", "neutral teacher"]
        assert table.loc["base", "rate"] == 1e-2
        assert math.isnan(table.loc["neutral teacher", "margin"])
        assert table["kept"].between(0, 1).all()
        kept = table.loc["teacher of owl", "kept_of_rows"]
        dropped = arms.answers(arms.traits["owl"], seed=0).dropped
        assert kept == pytest.approx(40 / (40 + sum(dropped.values())))
