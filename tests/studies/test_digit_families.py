"""Init matrix and lemma of the digits: permutations that undo themselves, and the step-one law on a small network."""

from __future__ import annotations

import pytest
import torch

from interp.core.runs import InputError
from interp.organisms.digit_networks import Networks
from interp.studies.digit_families import (
    CELLS,
    FAMILIES,
    DigitSubject,
    first_step,
    lean,
)
from interp.studies.registry import family


@pytest.fixture
def networks():
    source = torch.Generator().manual_seed(3)

    def drawn(*shape):
        return torch.randn(1, *shape, generator=source, dtype=torch.float64)

    return tuple(
        Networks((drawn(6, 5), drawn(5, 4), drawn(4, 13)), (drawn(5), drawn(4), drawn(13))) for _ in range(2)
    )


ORDERS = [torch.tensor([3, 1, 4, 0, 2]), torch.tensor([1, 2, 3, 0])]


def test_permuted_neurons_compute_the_same_and_go_back(networks):
    one = networks[0]
    other = one.permuted(ORDERS)
    x = torch.randn(1, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(other.logits(x), one.logits(x))
    assert not torch.equal(other.weights[0], one.weights[0])
    for a, b in zip(other.permuted(ORDERS, back=True).tensors, one.tensors, strict=True):
        assert torch.equal(a, b)


def test_the_first_step_of_a_permuted_start_is_the_permuted_first_step(networks):
    start, teacher = networks
    x = torch.randn(1, 7, 6)
    plain = first_step(start, teacher, x)
    moved = first_step(start.permuted(ORDERS), teacher, x)
    assert not torch.allclose(moved, plain)
    torch.testing.assert_close(moved.norm(), plain.norm())


def test_a_head_is_put_on_a_body(networks):
    body, head = networks
    made = body.with_head(head)
    assert torch.equal(made.weights[0], body.weights[0])
    assert torch.equal(made.weights[-1], head.weights[-1])
    assert torch.equal(made.biases[-1], head.biases[-1])


def test_lean_of_a_small_step_is_the_variance_of_the_derivative(networks):
    start, other = networks
    direction = torch.cat([(b - a).flatten() for a, b in zip(start.tensors, other.tensors, strict=True)])
    sizes = [tensor.numel() for tensor in start.tensors]

    def moved(share):
        parts = [
            t + share * p.reshape(t.shape) for t, p in zip(start.tensors, direction.split(sizes), strict=True)
        ]
        return Networks(tuple(parts[:3]), tuple(parts[3:]))

    x = torch.rand(1, 9, 6, dtype=torch.float64)
    near, far = (lean(start, moved(share), start, direction, x) for share in (1e-5, 0.3))
    assert near["R"] == pytest.approx(1, abs=1e-3)
    assert abs(far["R"] - 1) > 0.01
    # A by a backward pass: <−∇L, v> / ε with the untrained labels giving no step
    step = first_step(start, moved(0.3), x)
    epsilon = 0.3 * direction.norm()
    assert far["A"] == pytest.approx(float(step @ direction / direction.norm() / epsilon), rel=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_claim_gets_a_value(name):
    found = FAMILIES[name].measure(DigitSubject(seed=100, quick=True))
    assert set(found.values) == {claim.name for claim in FAMILIES[name].claims}
    if name == "shared-initialisation":
        assert [row["cell"] for row in found.tables["cells"]] == list(CELLS)
        assert abs(found.values["permuted-coverage"]) < 1e-12
    else:
        assert found.values["digits-lemma-ratio"] == pytest.approx(0, abs=0.05)


def test_a_claim_about_tokens_is_refused():
    with pytest.raises(InputError) as error:
        family("divergence-tokens", organism="digits")
    assert str(error.value) == (
        "'divergence-tokens' is about tokens, and digits have none; test shared-initialisation or lemma there, or "
        "divergence-tokens on toy/owl"
    )
