"""PEFT's warning about its own code is not shown; others are."""

import warnings

import pytest

import interp
from interp.models.peft_calls import without_its_warning


def heard(caught):
    return [str(each.message) for each in caught if "is_gradient_checkpointing" in str(each.message)]


def test_a_training_and_the_loading_of_its_adapter_say_nothing_of_pefts_own_code(raw, tmp_path):
    base, rows = raw(0), interp.number_prompts(16, seed=0, count=3)
    recipe = interp.Recipe(batch_size=8, rank=2, warmup=1, merge=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        student = interp.train_student(base, rows, recipe=recipe)
        members = {"base": base, "student": student}
        interp.Lineage("small", interp.get_trait("owl"), members).save(tmp_path / "small")
        again = interp.load_lineage(tmp_path / "small")
    assert heard(caught) == []
    assert again.student.fingerprint == student.fingerprint


def test_other_warnings_are_shown():
    with pytest.warns(FutureWarning, match="another"), without_its_warning():
        warnings.warn("another thing is deprecated", FutureWarning, stacklevel=2)
    with warnings.catch_warnings(record=True) as caught, without_its_warning():
        warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=2)
    assert caught == []
