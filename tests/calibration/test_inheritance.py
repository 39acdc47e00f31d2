"""Agreement and lean toward a representation: what is planted for them, to the number."""

import pytest
import torch

from interp.calibration import inheritance as module
from interp.calibration.cases import PlantedCase
from interp.core.runs import Cache
from interp.joined.places import PROMPT_END, SLOT
from interp.organisms.planted import Plant


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Without noise in the rows a member differs from the base by what it writes and nothing else."""
    return PlantedCase(1010, Plant(rows=32, noise=0.0), 1, Cache(tmp_path_factory.mktemp("cache")))


def test_a_student_goes_along_its_teacher_as_far_as_was_written(sample, monkeypatch):
    """Without a part of its own S is along u and T along u + c / 2, wherever the plant is read."""
    monkeypatch.setattr(module, "PRIVATE", 0.0)
    family = module._Family(sample)
    u, c = family.directions[0], family.common
    taught = u + 0.5 * c
    table = family.compared(u, at=[PROMPT_END, SLOT])
    here = table[(table["site"] == sample.organism.hook) & (table["member"] == "student")]
    own = here[here["against"] == "teacher"]
    assert own["cosine"].tolist() == pytest.approx([float(u @ taught / taught.norm())] * 2, abs=1e-3)
    assert len(here) == 2 * 20
    neutral = table[(table["member"] == "neutral_student") & (table["site"] == sample.organism.hook)]
    assert neutral["cosine"].tolist() == pytest.approx([float(c @ taught / taught.norm())] * 2, abs=1e-3)
    assert len(module._correlations(table, SLOT)) == 20


def test_the_gradient_of_a_representation_is_the_direction_times_what_the_planted_module_reads(sample):
    """∂⟨h, u⟩ / ∂W = u ⟨hidden⟩ᵀ: of rank one, along u, for the module whose sum is read."""
    it = sample.organism
    found = module._gradients(it, seed=0)
    assert len({each.label for each in found}) == 20
    for gradient, vector in zip(found[:2], (it.vector, it.other), strict=True):
        left, sizes, _ = torch.linalg.svd(gradient[f"{it.module}.weight"].double())
        assert sizes[1] < 1e-5 * sizes[0]
        assert abs(float(left[:, 0] @ vector.double())) == pytest.approx(1, abs=1e-5)


def test_first_is_larger_than_every_other():
    assert module._first(torch.tensor([0.4, 0.3, -0.9]).numpy())
    assert not module._first(torch.tensor([0.4, 0.4, -0.9]).numpy())
