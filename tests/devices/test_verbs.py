"""Every public verb that reads or trains a model, on the GPU and on the processor: the same numbers.

The lineage is a toy that was grown on the processor, in seconds, and is loaded onto both.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.organisms.library import QUICK_TOY
from interp.training.grower import TeacherSpec
from tests.devices.case import Case
from tests.devices.comparing import DEVICE, TOLERANCE, TRAINED, agree_on_both, needs_device
from tests.devices.reading import ACTIVATIONS, FEATURES, GRADIENTS, LOGITS
from tests.devices.writing import TRAININGS, WRITING

VERBS = {**ACTIVATIONS, **LOGITS, **GRADIENTS, **FEATURES, **WRITING, **TRAININGS}
TRAINS = {
    "train_sae",
    "default_dictionary",
    "fitted_direction",
    "teacher_direction",
    "record_training",
    "trait_ledger",
    "alignment_course",
    "trace",
    *TRAININGS,
}
"""Verbs with a training in them, which are held to TRAINED."""
NO_MODEL = {"prompts", "stats", "figures", "report", "hypotheses", "experiment", "calibration", "cli", "core"}
"""Rooms whose verbs read no model, or run those of the other rooms."""
ELSEWHERE = {
    "reads what others measured": "bag_of_numbers frequent_values detector_table scorecard misalignment "
    "sift_rows fit_forecast refusal_rate capability judge_rows control_sets change_size lean_correlation "
    "naming_table extreme_rows rows_needed across_lineages only_numbers only_words joined_figure compare_runs "
    "write_report",
    "is part of a verb that is compared, or another way to call it": "prompted_classifier written_under "
    "ablate_features add scaled_change margin_objective representation_objective parity open_lineage read_lineage "
    "trace_files neutral_teacher number_prompts get_trait token_scores written_by",
    "reads or writes a file": "load_sae save_sae export_questions export_rows import_answers read_experiment "
    "read_forecast analysis freeze stale family",
    "fine-tunes candidates or placebos, and asks verbs that are compared": "audit audit_student audit_channels "
    "placebo_students discover",
    "trains a student again as train_student does, and asks its margin": "datamodeling_score metagradient "
    "token_datamodeling_score",
    "computes by bergson, on the processor": "influence peer_scores",
    "grows toys or digits on the processor, and runs the verbs above on them": "grow digits transfer_sweep "
    "load_digits demo calibrate test tested_run run_experiment lemma_sweep init_matrix",
}
"""Public functions that no test here calls, by the reason."""


def test_every_public_verb_is_compared_or_named_with_the_reason():
    stubs = {path.parent.name: path.read_text() for path in Path(interp.__path__[0]).rglob("__init__.pyi")}
    held = [re.findall(r" as ([a-z]\w*)", text) for room, text in stubs.items() if room not in NO_MODEL]
    public = {name for names in held for name in names} - stubs.keys()
    compared = {name.split(",")[0] for name in VERBS}
    elsewhere = {name for names in ELSEWHERE.values() for name in names.split()}
    assert public == (public & compared) | elsewhere
    assert not compared & elsewhere


@pytest.fixture(scope="module")
def lineages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The same grown toy on the device and on the processor."""
    folder = tmp_path_factory.mktemp("grown")
    recipe = replace(
        QUICK_TOY,
        teacher=TeacherSpec(steps=40, recipe=QUICK_TOY.teacher.recipe),
        student=replace(QUICK_TOY.student, epochs=4),
        controls=(),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(folder / "cache"))
        saved = interp.organisms.grow("owl", seed=0, recipe=recipe).save(folder / "lineage")
        on_device, here = (interp.load_lineage(saved, device=device) for device in (DEVICE, "cpu"))
    placed: Any = on_device.student
    assert placed.device.type == torch.device(DEVICE).type
    return on_device, here


@pytest.fixture(scope="module")
def dictionary(lineages: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One dictionary for both, trained on the processor."""
    recipe = interp.features.SAERecipe(samples=2048, width=96)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERP_CACHE", str(tmp_path_factory.mktemp("dictionary")))
        return interp.train_sae(
            lineages[1].base, lineages[1].numbers[:128], hook="blocks.1.hook_resid_post", recipe=recipe
        )


@needs_device
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_measures_the_same_on_both(lineages, dictionary, verb, tmp_path):
    agree_on_both(
        lambda lineage, folder: VERBS[verb](Case(lineage, dictionary, folder)),
        lineages,
        tmp_path,
        tolerance=TRAINED if verb in TRAINS else TOLERANCE,
    )
