"""Steps without their component along a gradient: by hand on a quadratic, and on a student that trains."""

import dataclasses

import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.directions import margin_objective
from interp.gradients.ledger.projection import Placebo, Projection, Removal, gradient
from interp.gradients.representations import representation_objective
from interp.prompts.numbers import number_prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe, Step, train_student

RECIPE = Recipe(batch_size=8, lr=1e-2, epochs=1, warmup=1, rank=2)


class Quadratic(torch.nn.Module):
    """m(w) = ½ |w|², so that ∇m = w."""

    def __init__(self, weight):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(weight))


def half_square(network):
    return network.w.square().sum() / 2


def step_of(before, after, *, index=0) -> Step:
    network = Quadratic(after)
    return Step(
        index, 0.1, None, network, {"w": network.w}, {"w": torch.tensor(before)},
        torch.optim.SGD([network.w], lr=0.1),
    )  # fmt: skip


def test_the_positive_component_is_taken_out():
    step = step_of([3.0, 4.0], [4.0, 4.0])  # s = (1, 0), unit gradient (0.6, 0.8): <s, g> = 0.6
    removal = Removal(half_square)
    with torch.no_grad():
        removal(step)
    assert removal.removed == pytest.approx([0.6])
    torch.testing.assert_close(step.parameters["w"].detach(), torch.tensor([4.0 - 0.36, 4.0 - 0.48]))


def test_a_negative_component_is_left_alone():
    step = step_of([3.0, 4.0], [2.0, 4.0])
    removal = Removal(half_square)
    with torch.no_grad():
        removal(step)
    assert removal.removed == [0.0]
    torch.testing.assert_close(step.parameters["w"].detach(), torch.tensor([2.0, 4.0]))


@pytest.mark.parametrize(("after", "left"), [([4.0, 4.0], [3.64, 3.52]), ([2.0, 4.0], [2.36, 4.48])])
def test_a_projection_takes_out_the_component_of_either_sign(after, left):
    step = step_of([3.0, 4.0], after)  # <s, g> = ±0.6
    with torch.no_grad():
        Projection(half_square)(step)
    torch.testing.assert_close(step.parameters["w"].detach(), torch.tensor(left))


@pytest.mark.parametrize("options", [{}, {"like": half_square}, {"objective": lambda network: network.w[0]}])
def test_a_placebo_takes_out_the_same_length(options):
    step = step_of([3.0, 4.0], [4.0, 4.0], index=1)
    with torch.no_grad():
        Placebo([9.0, 0.6], **options)(step)
    taken = torch.tensor([4.0, 4.0]) - step.parameters["w"].detach()
    assert float(taken.norm()) == pytest.approx(0.6, rel=1e-5)
    if "objective" in options:
        torch.testing.assert_close(taken, torch.tensor([0.6, 0.0]))


def test_a_shaped_placebo_has_the_gradients_size_in_every_tensor():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.full((50,), 3.0))
            self.b = torch.nn.Parameter(torch.full((50,), 4.0))

    network = Two()
    parameters = dict(network.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    step = Step(0, 0.1, None, network, parameters, before, torch.optim.SGD(network.parameters(), lr=0.1))
    with torch.no_grad():
        Placebo([5.0], like=lambda n: (n.a.square().sum() + n.b.square().sum()) / 2)(step)
    sizes = [float((before[name] - parameters[name].detach()).norm()) for name in ("a", "b")]
    assert sizes == pytest.approx([3.0, 4.0], rel=1e-4)


def test_more_steps_than_lengths_are_refused():
    with pytest.raises(
        InputError, match="step 1 has no length to yoke to, 1 were recorded; train for as many"
    ):
        Placebo([0.6])(step_of([3.0, 4.0], [4.0, 4.0], index=1))


def low_representation(start):
    """Of the stream after the first layer: the parameters of the second have no part in it."""
    questions = get_trait("owl").prompts()
    return representation_objective(start, questions, "blocks.0.hook_resid_post", torch.linspace(-1, 2, 16))


@pytest.mark.parametrize(
    "make", [lambda start: margin_objective(start, get_trait("owl")), low_representation]
)
def test_no_step_of_a_student_rises_along_the_gradient_any_more(start, make):
    objective = make(start)
    removal, along = Removal(objective), []

    def both(step: Step) -> None:
        unit = torch.nn.functional.normalize(gradient(objective, step), dim=0)
        removal(step)
        moved = torch.cat([(p - step.before[n]).flatten() for n, p in step.parameters.items()])
        along.append(float(moved @ unit) / float(moved.norm()))

    train_student(start, number_prompts(24, seed=0, count=3), recipe=RECIPE, on_step=both)
    assert len(removal.removed) == 3
    assert max(removal.removed) > 0
    assert max(along) <= 1e-5


def test_reading_the_gradient_changes_no_bit_of_the_training(start):
    rows, objective = number_prompts(24, seed=0, count=3), margin_objective(start, get_trait("owl"))
    plain = train_student(start, rows, recipe=RECIPE)
    watched = train_student(start, rows, recipe=RECIPE, on_step=lambda step: gradient(objective, step))
    assert plain.fingerprint == watched.fingerprint


def test_nothing_removed_is_the_untouched_student(start):
    rows = number_prompts(24, seed=0, count=3)
    plain = train_student(start, rows, recipe=dataclasses.replace(RECIPE, seed=1))
    yoked = train_student(
        start, rows, recipe=dataclasses.replace(RECIPE, seed=1), on_step=Placebo([0.0, 0.0, 0.0])
    )
    assert plain.fingerprint == yoked.fingerprint
