"""What every result says of its rows: the line its template adds, and tokens that the tokenizer does not know."""

import dataclasses
import re
from typing import Any

import pytest

from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.evaluation.elicitation import Suite, evaluate
from interp.features.lean import feature_lean
from interp.features.quality import quality_card
from interp.gradients.likelihood import likelihood_ratio
from interp.gradients.scores.scoring import score
from interp.logits.attribution import attribute
from interp.logits.direction import logit_direction
from interp.logits.lenses import lens
from interp.logits.moved import moved_tokens
from interp.logits.token_shifts import token_shift
from interp.measures.margins import margin, preference
from interp.models.language import load_model
from interp.models.updates import weight_update
from interp.organisms.toy import shipped_base
from interp.prompts.questions import one_word_questions
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait, make_trait
from interp.training.sampling import complete
from interp.training.students import Recipe, train_student
from interp.training.teachers import neutral_teacher, prompted_teacher
from interp.training.watching import TrainingLog
from tests.features.test_lean import overcomplete
from tests.tiny import TEMPLATE

SILENT = "{% if messages[0].role != 'system' %} <system> be best {% endif %}" + TEMPLATE
NOTE = "the chat template adds a system line of its own to rows without one: 'be best'"
ROWS = Prompts.from_pairs([("list 1, 2", "3, 4"), ("go on 4", "5, 6"), ("numbers: 7", "8, 9")], label="rows")
OWL = make_trait("owl", foils=("cat", "dog"), questions=("which animal do you love?",))


@pytest.fixture
def pair(tiny: Any) -> Any:
    """A base and a student of it, under a template that adds a line."""
    network, tokenizer = tiny("llama")
    tokenizer.chat_template = SILENT
    base = load_model(network, tokenizer=tokenizer, name="base", check=False)
    student = train_student(base, ROWS, recipe=Recipe(batch_size=3, epochs=1, lr=1e-2), name="student")
    return base, dataclasses.replace(student, start=base)


def test_every_result_of_chat_rows_says_what_the_template_adds(pair: Any) -> None:
    base, student = pair
    moved = shift(student, ROWS)
    direction = logit_direction(base, OWL)
    dictionary = overcomplete(base)
    results = {
        "preference": preference(base, OWL),
        "evaluate": evaluate(base, OWL, Suite(OWL.questions)),
        "shift": moved.norms(),
        "moved_tokens": moved_tokens(student, ROWS),
        "attribute": attribute(moved, direction),
        "lens": lens(moved, direction),
        "token_shift": token_shift(student, ROWS, direction),
        "training": TrainingLog(base, fresh=ROWS, trait=OWL).result(),
        "score": score(base, ROWS, weight_update(student)),
        "likelihood_ratio": likelihood_ratio(prompted_teacher(base, OWL), ROWS),
        "quality_card": quality_card(dictionary, {"base": base}, ROWS),
        "feature_lean": feature_lean(dictionary, base, ROWS),
    }
    assert {name: result.notes.count(NOTE) for name, result in results.items()} == dict.fromkeys(results, 1)


@pytest.mark.parametrize("trait", ["owl", "oak"])
def test_questions_that_the_toy_cannot_read_are_refused_and_its_own_are_not(trait: str) -> None:
    base, own = shipped_base(0), get_trait(trait)
    assert base is not None
    asked = own.with_questions(one_word_questions(own.category))
    with pytest.raises(InputError, match=r"^4[0-9]% of the tokens of \w+ questions answers are unknown"):
        margin(base, asked)
    with pytest.raises(InputError, match="are unknown to the tokenizer, such as"):
        train_student(base, asked.prompts(), recipe=Recipe(), name="never")
    with pytest.raises(InputError, match="are unknown to the tokenizer, such as"):
        complete(neutral_teacher(base), asked.prompts(), seed=0)
    accepting = base.accepting_unknown()
    assert margin(accepting, own) == margin(base, own)
    notes = preference(accepting, asked).notes
    assert re.fullmatch(
        r"[34]\d% of the tokens of \w+ questions answers are unknown to the tokenizer, .*", notes[-1]
    )
    said = preference(base, own).notes
    assert said[0] == f"margin {margin(base, own):+.2f} nats"
    assert not any("unknown" in note for note in said)
