"""Every public verb that reads a model, as a function of a case: name -> what it measures.

A name is that of the verb, and after a comma how it is called where it is called in several ways.
"""

from __future__ import annotations

from typing import Any

import torch

import interp
from interp.gradients.nulls.ladders import NeutralTeacher, Observation, ShuffledNumbers
from tests.devices.case import HOOK, Case, Measured, logprobs, prompted
from tests.devices.comparing import moved


def steered(it: Case) -> torch.Tensor:
    with interp.steer(it.base, hook=HOOK, vector=torch.linspace(-1, 1, it.base.d_model)) as model:
        return logprobs(model, it.rows)


def ablated(it: Case) -> torch.Tensor:
    hook = "blocks.0.attn.hook_z"
    with interp.ablate(it.base, hook=hook, heads=[0], value="mean", over=it.rows) as model:
        return logprobs(model, it.rows)


def patched(it: Case) -> torch.Tensor:
    source = interp.record(it.teacher, it.rows[:1], hooks=HOOK, positions="all")
    with interp.patch(it.base, hook=HOOK, source=source) as model:
        return logprobs(model, it.rows[:1])


def representation(it: Case) -> Any:
    return interp.activations.trait_representations(it.base, "owl", hook=HOOK)["owl"]


ACTIVATIONS: Measured = {
    "load_model, in bf16": lambda it: interp.record(halved(it), it.rows, hooks=HOOK),
    "load_lineage": lambda it: {role: model.fingerprint for role, model in it.lineage.members.items()},
    "read_direction": lambda it: saved(it),
    "record": lambda it: interp.record(it.student, it.rows, hooks=HOOK, positions="all"),
    "shift": lambda it: it.shift.direction(HOOK),
    "moments": lambda it: interp.activations.moments(it.student, it.rows, hooks=HOOK)[HOOK].covariance,
    "trait_representations": representation,
    "steer": steered,
    "ablate": ablated,
    "patch": patched,
    "margin": lambda it: torch.tensor(
        [interp.margin(it.lineage[role], "owl") for role in it.lineage.members]
    ),
    "preference": lambda it: interp.measures.preference(it.student, "owl", against=it.base),
    "answer_loss": lambda it: interp.measures.answer_loss(it.student, it.student.encode(it.rows)),
}
"""The seam, `activations` and `measures`."""


def halved(it: Case) -> Any:
    it.lineage.save(it.folder / "lineage")
    return interp.load_model(
        it.folder / "lineage" / "base", dtype="bfloat16", device=it.base.device, check=False
    )


def saved(it: Case) -> Any:
    """A lineage and a direction that were written and read again."""
    folder = it.lineage.save(it.folder / "lineage")
    again = interp.load_lineage(folder, device=it.base.device)
    assert again.student.fingerprint == it.student.fingerprint
    update = it.lineage.update("student")
    return interp.models.read_direction(update.save(it.folder / "update.safetensors"), it.base)


LOGITS: Measured = {
    "logit_direction": lambda it: [it.toward.ids, it.toward.weights],
    "attribute": lambda it: interp.attribute(it.shift, it.toward),
    "attribute_over": lambda it: interp.attribute_over([it.lineage], prompts=it.rows),
    "lens": lambda it: interp.lens(it.shift, it.toward),
    "lens_over": lambda it: interp.lens_over([it.lineage], prompts=it.rows),
    "moved_tokens": lambda it: interp.moved_tokens(it.student, it.rows),
    "moved_tokens, over numbers": lambda it: interp.moved_tokens(it.student, it.rows, over="numbers"),
    "token_shift": lambda it: interp.token_shift(it.student, it.rows, it.toward),
    "spectrum": lambda it: interp.spectrum(it.student, "owl"),
    "entanglement": lambda it: interp.entanglement(it.base, "owl", rows=it.rows, neutral_rows=it.neutral),
}


def arithmetic(it: Case) -> Any:
    student, teacher = it.lineage.update("student"), it.lineage.update("teacher")
    return [
        (student - it.lineage.update("neutral_student")).unit(),
        student.truncated(2).norm(),
        student.compressed(1e-3).norm(),
        student.dot(teacher),
    ]


def rescored(it: Case) -> Any:
    """Scores by token along two directions, and the numbers that the tokens make up."""
    along = [it.lineage.update("teacher"), it.lineage.update("student")]
    scores = interp.score(it.base, it.rows, along, by=("example", "token"))
    return [scores.totals, interp.gradients.score_numbers(scores)]


def leaning(it: Case) -> Any:
    seen = Observation(it.base, it.rows, it.lineage.update("teacher"), it.neutral)
    return interp.gradients.ladder(seen, [NeutralTeacher(), ShuffledNumbers(draws=3)])


def course(it: Case) -> Any:
    lineage, record = it.recorded
    return interp.gradients.alignment_course(
        lineage,
        record=record,
        direction=it.lineage.update("teacher"),
        null=[interp.trait_gradient(it.base, animal) for animal in ("cat", "lion")],
    )


def ledger(it: Case) -> Any:
    lineage, record = it.recorded
    found = interp.trait_ledger(lineage, record=record)
    return [found.steps, found.by_module()]  # its rows share what momentum keeps, which rounding moves more


def toward_representation(it: Case) -> Any:
    return interp.representation_gradient(it.base, it.lineage.trait.prompts(), HOOK, representation(it))


def scores(it: Case, *along: Any, **how: Any) -> Any:
    return interp.score(it.base, it.rows, list(along), **how)


def installed(it: Case) -> Any:
    """What the rows would install at a hook, and what adding it does to the margin."""
    found = interp.joined.installed_direction(it.base, it.rows, HOOK, neutral=it.neutral)
    against = {"teacher": it.shift.direction(HOOK)}
    return [found.vector, interp.joined.compare_directions(it.base, "owl", {"step": found}, against=against)]


GRADIENTS: Measured = {
    "backward_lens": lambda it: interp.gradients.backward_lens(it.base, it.rows, "owl").effects,
    "installed_direction": lambda it: installed(it)[0],
    "compare_directions": lambda it: installed(it)[1],
    "fitted_direction": lambda it: (
        interp.joined.fitted_direction(
            it.base, it.rows, HOOK, recipe=interp.joined.BiasRecipe(batch_size=len(it.rows))
        ).vector
    ),
    "weight_update": lambda it: interp.models.weight_update(it.student),
    "update, arithmetic": arithmetic,
    "trait_gradient": lambda it: interp.trait_gradient(it.base, "owl"),
    "representation_gradient": toward_representation,
    "score": lambda it: scores(it, it.lineage.update("teacher"), by=("example", "module")).examples(),
    "score, by head": lambda it: scores(it, it.lineage.update("teacher"), by=("head",)).totals,
    "score, cosine": lambda it: scores(it, it.lineage.update("teacher"), cosine=True).totals,
    "score_numbers": rescored,
    "steering": lambda it: scores(it, interp.gradients.steering(it.base, it.shift.direction(HOOK))).totals,
    "likelihood_ratio": lambda it: interp.gradients.likelihood_ratio(prompted(it), it.rows),
    "teacher_direction": lambda it: interp.gradients.teacher_direction(prompted(it), it.many, steps=3),
    "kl_per_row": lambda it: interp.gradients.kl_per_row(it.teacher, it.base, it.rows).kl,
    "transplant": lambda it: interp.gradients.transplant(it.lineage.update("teacher"), it.student),
    "ladder": leaning,
    "record_training": lambda it: moved(it.recorded[0].student, it.base),
    "trait_ledger": ledger,
    "alignment_course": course,
}


def spliced(it: Case) -> torch.Tensor:
    with interp.features.with_features(it.student, it.dictionary, lambda values: values * 0.5) as model:
        return logprobs(model, it.rows)


def read(it: Case) -> Any:
    reading = interp.features.read_tokens(it.dictionary, it.base, it.rows)
    return [value for value in vars(reading).values() if isinstance(value, torch.Tensor)]


def card(it: Case) -> Any:
    found = interp.features.feature_card(it.dictionary, it.base, it.rows, 3)
    return [found.frame, found.logits, found.controls]


def dictionary(it: Case) -> torch.Tensor:
    return interp.train_sae(it.base, it.many, hook=HOOK, recipe=SMALL).decoder


SMALL = interp.features.SAERecipe(samples=1024, width=96)
CHOSEN, *CONTROLS = range(32), range(32, 64), range(64, 96)  # thirds, so that each moves the margin
TWO_SETS: dict[str, Any] = {"trait": "owl", "controls": CONTROLS}
FEATURES: Measured = {
    "train_sae": dictionary,
    "default_dictionary": lambda it: interp.joined.default_dictionary(it.lineage, recipe=SMALL).decoder,
    "quality_card": lambda it: interp.features.quality_card(it.dictionary, it.lineage, it.rows),
    "read_tokens": read,
    "feature_statistics": lambda it: interp.features.feature_statistics(it.dictionary, it.base, it.rows),
    "feature_shift": lambda it: interp.feature_shift(it.dictionary, it.student, it.many),
    "feature_differences": lambda it: interp.features.feature_differences(
        it.dictionary, it.student, it.base, it.rows
    ),
    "shared_features": lambda it: interp.features.shared_features(it.dictionary, it.lineage),
    "mean_shift": lambda it: interp.features.mean_shift(it.dictionary, it.student, it.rows),
    "feature_lean": lambda it: it.lean,
    "vocabulary_control": lambda it: interp.features.vocabulary_control(
        it.dictionary, it.base, it.lean, trait="owl", placebos=3
    ),
    "feature_attribution": lambda it: interp.features.feature_attribution(
        it.dictionary, it.student, "owl", steps=4
    ),
    "feature_card": card,
    "feature_effects": lambda it: interp.features.feature_effects(
        it.dictionary, it.student, CHOSEN, rows=it.rows, **TWO_SETS
    ),
    "with_features": spliced,
    "necessity": lambda it: interp.features.necessity(it.dictionary, it.teacher, CHOSEN, **TWO_SETS),
    "sufficiency": lambda it: interp.features.sufficiency(it.dictionary, it.teacher, CHOSEN, **TWO_SETS),
}
