"""The calibration table: arithmetic by hand, methods on one small organism, caching and errors."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom, binomtest

import interp
from interp.calibration import harness as module
from interp.calibration.cases import Method, MethodCell, PlantedCase
from interp.calibration.counterfactuals import STUDENT, Scale, _dealt, _predicted, holding, without_rows
from interp.calibration.harness import COLUMNS, calibrate
from interp.calibration.methods import METHODS
from interp.core.runs import Cache, InputError
from interp.gradients.ledger.ledgers import Ledger
from interp.organisms.planted import Plant
from interp.stats.tests import wilson_interval
from interp.studies.token_matching import divergence_tokens
from interp.training.students import train_student


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    return Cache(tmp_path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return PlantedCase(1008, Plant(rows=48), 1, Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def given(monkeypatch):
    """`given(cells)` puts a method in place whose cell on organism i is cells[i]; the organisms it was run on."""
    ran = []

    def put(cells):
        def measure(sample):
            ran.append(sample.seed)
            return cells[sample.seed % 1000]

        monkeypatch.setitem(METHODS, "given", Method("nothing", measure))
        return ran

    return put


def line(cells, given, cache):
    given(cells)
    return calibrate(organisms=len(cells), methods=["given"], cache=cache, workers=1).frame.iloc[0]


def test_a_row_is_the_sum_of_its_cells(given, cache):
    row = line(
        [MethodCell(1, 2, 0, 3, 0.9, {"a": 1.0}), MethodCell(2, 2, 1, 3, 0.7, {"a": 2.0})], given, cache
    )
    assert tuple(row.index) == COLUMNS
    assert (row["recovery"], row["n"], bool(row["passed"])) == (0.75, 2, False)
    assert (row["recovery_low"], row["recovery_high"]) == wilson_interval(3, 4)
    assert row["auroc"] == pytest.approx(0.8)
    assert (row["auroc_low"], row["auroc_high"]) == (0.0, 1.0)  # t with one degree of freedom: 0.8 ± 1.27
    assert row["false_positive_rate"] == pytest.approx(1 / 6)
    assert (row["fpr_low"], row["fpr_high"]) == wilson_interval(1, 6)
    assert row["note"] == "fails: recovery from 0.30; AUROC from 0.00; too few organisms to pass; a 1.50"


def test_sixteen_of_sixteen_pass_and_fifteen_do_not(given, cache):
    assert line([MethodCell(1, 1, 0, 3, 1.0)] * 16, given, cache)["passed"]
    row = line(
        [MethodCell(0, 1, 0, 3, 1.0), *[MethodCell(1, 1, 0, 3, 1.0)] * 15], given, Cache(cache.root / "other")
    )
    assert (bool(row["passed"]), row["note"]) == (False, "fails: recovery from 0.72")


def test_the_power_of_a_list_is_said_and_not_judged(given, cache, monkeypatch):
    given([MethodCell(1, 2, 0, 20, 1.0)] * 16)
    monkeypatch.setitem(METHODS, "given", replace(METHODS["given"], judged=False))
    row = calibrate(organisms=16, methods=["given"], cache=cache, workers=1).frame.iloc[0]
    assert (row["recovery"], bool(row["passed"]), row["note"]) == (0.5, True, "")


def test_too_many_false_positives_fail_by_the_exact_binomial_test(given, cache):
    """P(X ≥ 7 | 60, 0.05) = 0.030 and P(X ≥ 8 | 60, 0.05) = 0.0098, either side of 1 %."""
    for false, passed in ((7, True), (8, False)):
        cells = [MethodCell(1, 1, int(index < false), 3) for index in range(20)]
        row = line(cells, given, Cache(cache.root / str(false)))
        assert row["false_positive_rate"] == pytest.approx(false / 60)
        assert row["passed"] == passed
    assert row["note"] == "fails: 8 of 60 nulls reported"
    assert math.isnan(row["auroc"])


def test_cells_are_cached_and_a_killed_call_goes_on(given, cache):
    ran = given([MethodCell(1, 1)] * 3)
    first = calibrate(organisms=2, methods=["given"], cache=cache, workers=1)
    again = calibrate(organisms=3, methods=["given"], cache=cache, workers=1)
    assert ran == [0, 1, 2]
    calibrate(organisms=2, seed=1, methods=["given"], cache=cache, workers=1)
    assert ran == [0, 1, 2, 1000, 1001]
    assert (first.frame["n"][0], again.frame["n"][0]) == (2, 3)
    assert math.isnan(again.frame.to_dict("records")[0]["false_positive_rate"])
    traces: Any = again.figure().data
    assert [trace.name for trace in traces] == ["recovery"]


def test_one_organism_gives_its_cells(cache):
    one = module._organism((1009, Plant(rows=4), 1), names=["spectrum"], cache=cache)
    assert one["spectrum"].found == 2


def test_a_run_folder_holds_the_table(given, cache, monkeypatch, tmp_path):
    given([MethodCell(1, 1, 0, 3, 1.0)] * 2)
    monkeypatch.setenv("INTERP_CACHE", str(cache.root))
    run = module.calibrated_run(tmp_path / "run", workers=1, organisms=2, methods=["given"])
    assert run.tables["calibration"]["method"].tolist() == ["given"]
    assert (run.folder / "report.html").is_file()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("trait_ledger", "entanglement")])
def test_a_method_finds_its_plant_in_one_organism(name, sample, cache):
    cell = METHODS[name].measure(sample)
    assert cell.found == cell.planted
    best = cell.extra.get("AUROC of counting the planted numbers", 0.85)  # what the rows themselves tell
    assert cell.auroc is None or cell.auroc > best - 0.05
    assert 0 <= cell.false <= cell.nulls <= 1


def test_the_ledger_of_a_student_adds_up(sample, cache):
    cell = METHODS["trait_ledger"].measure(sample)
    assert cell.extra["accounted for"] == pytest.approx(1, abs=0.1)
    assert cell.extra["margin gained (nats)"] > 0
    assert (cell.planted, cell.nulls) == (2, 1)


def test_a_module_that_is_held_stays_and_rows_left_out_teach_nothing(sample):
    it = sample.organism
    rows = it.base.encode(sample.neutral)
    left = np.arange(len(rows)) < 16
    fewer = without_rows(rows, left)
    assert torch.equal(fewer.ids, rows.ids)
    assert (fewer.at("answer+end").sum(1) == 0).tolist() == left.tolist()
    student = train_student(it.base, rows, recipe=STUDENT, on_step=holding(it.module))
    moved = {
        name
        for name, weight in student.network().named_parameters()
        if not torch.equal(weight, dict(it.base.network().named_parameters())[name])
    }
    assert len(moved) == 13  # of the fourteen matrices of two layers
    assert f"{it.module}.weight" not in moved


def test_steps_at_the_recorded_scale_are_the_training_itself(sample):
    """Held to its own second moments a training ends where it did."""
    it, scale = sample.organism, Scale()
    rows = it.base.encode(sample.neutral)
    first = train_student(it.base, rows, recipe=STUDENT, on_step=scale)
    again = train_student(it.base, rows, recipe=STUDENT, on_step=scale.held)
    assert torch.allclose(first.logits(rows), again.logits(rows), atol=1e-4)
    assert not torch.allclose(first.logits(rows), it.base.logits(rows), atol=1e-2)


def test_what_leaving_rows_out_loses_by_hand():
    """Two batches of two rows of two tokens, shares 1, 2 and 3, 4; without the first its partner counts twice."""
    frame = pd.DataFrame(
        {"row": [0, 1, 2, 3], "step": [0, 0, 1, 1], "tokens": 2, "attributed": [1.0, 2.0, 3.0, 4.0]}
    )
    steps = pd.DataFrame({"attributed": [3.0, 7.0]})
    ledger = Ledger("toy", steps, pd.DataFrame(), frame, 10.0)
    assert _predicted(ledger, np.array([True, False, False, False])) == 10 - (2 * 2 + 3 + 4)
    assert _predicted(ledger, np.array([False, True, True, False])) == 10 - (2 * 1 + 2 * 4)
    dealt = _dealt(ledger, count=3, seed=0)
    assert all(sorted(one.rows["attributed"]) == [1, 2, 3, 4] for one in dealt)
    assert len({tuple(one.rows["attributed"]) for one in dealt}) > 1


def test_a_method_that_errs_in_a_tenth_is_refused_with_twenty_nulls_each():
    """By the exact binomial test 32 of 400 are too many, and 31 are not; P(X ≥ 32 | 400, 0.1) = 0.925."""
    most = module.NULLS * 20
    assert most == 400
    limits = [binomtest(found, most, 0.05, alternative="greater").pvalue for found in (31, 32)]
    assert limits[0] > module.LEVEL > limits[1]
    assert binom.sf(31, most, 0.1) == pytest.approx(0.925, abs=0.001)
    assert binom.sf(31, most, 0.05) < module.LEVEL


def test_entangled_numbers_rank_high(sample, cache):
    cell = METHODS["entanglement"].measure(sample)
    assert cell.planted == 20
    assert cell.auroc is not None
    assert cell.auroc > 0.95


def test_errors(cache):
    with pytest.raises(
        InputError, match="method 'scores' is unknown; nearest: score; pass some of moved_tokens, "
    ):
        calibrate(methods=["scores"], cache=cache)
    with pytest.raises(InputError, match="no method was named; pass some of moved_tokens, "):
        calibrate(methods=[], cache=cache)
    with pytest.raises(
        InputError, match="organisms=0 measures nothing; pass at least 1, and 16 or more to pass"
    ):
        calibrate(organisms=0, cache=cache)
    with pytest.raises(InputError, match="workers=0 do no work; pass at least 1"):
        calibrate(organisms=1, methods=["spectrum"], cache=cache, workers=0)


def test_the_criteria_are_the_ones_written_down():
    assert (module.LEAST, module.ALPHA, module.LEVEL) == (0.8, 0.05, 0.01)


DOCUMENTED = {
    "moved_tokens": interp.moved_tokens,
    "attribute": interp.attribute,
    "lens": interp.lens,
    "feature_shift": interp.feature_shift,
    "feature_lean": interp.feature_lean,
    "score": interp.score,
    "trait_ledger": interp.trait_ledger,
    "mediation": interp.studies.mediation,
    "divergence enrichment": divergence_tokens,
    "entanglement": interp.entanglement,
    "agreement": interp.agreement,
    "representation_gradient": interp.representation_gradient,
    "spectrum": interp.spectrum,
}


def test_a_method_that_fails_its_plant_says_so_and_no_other_does(request):
    results = json.loads((request.config.rootpath / "analyses/results/planted.json").read_text())
    failed = {line["method"] for line in results["methods"] if not line["passed"]}
    said = {
        name
        for name, method in DOCUMENTED.items()
        if "failed calibration" in " ".join((method.__doc__ or "").split())
    }
    assert said == failed
    assert set(DOCUMENTED) == set(METHODS)


def test_the_numbers_that_docstrings_quote_of_their_calibration(request):
    results = json.loads((request.config.rootpath / "analyses/results/planted.json").read_text())
    lines = {line["method"]: line for line in results["methods"]}
    docs = {name: " ".join((method.__doc__ or "").split()) for name, method in DOCUMENTED.items()}

    def quoted(name, key, *, low=True):
        line = lines[name]
        return f"{line[key]:.2f} from {line[f'{key}_low']:.2f}" if low else f"{100 * line[key]:.1f} %"

    for name in ("trait_ledger", "representation_gradient"):
        assert f"recovery {quoted(name, 'recovery')}" in docs[name]
        assert f"AUROC {quoted(name, 'auroc')}" in docs[name]
    assert f"AUROC {quoted('divergence enrichment', 'auroc')}" in docs["divergence enrichment"]
    for name in ("representation_gradient", "divergence enrichment", "entanglement"):
        assert quoted(name, "false_positive_rate", low=False) in docs[name]
    assert f"holds {100 * lines['entanglement']['recovery']:.0f} % of twenty" in docs["entanglement"]
    assert round(20 * lines["representation_gradient"]["recovery"]) == 19
    told = lines["trait_ledger"]["note"]
    for value in ("of its share 0.46", "of predicted 0.07", "recorded scale 0.10"):
        assert value in told
        assert f" {value.split()[-1]} " in docs["trait_ledger"].replace("(", " ")
