"""The representation of a trait: by hand from recordings, the same from planted teachers, and what is refused."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from interp.activations.recording import record
from interp.activations.representations import trait_representations
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.seam import lineage_root
from interp.prompts.traits import make_trait

HOOK = "blocks.0.hook_resid_post"
TRAIT = make_trait("owl", ("cat", "dog"), questions=("which animal is best?", "name"), category="animal")


@pytest.fixture
def base(tiny):
    hf, tokenizer = tiny("gpt2", 0)
    return load_model(hf, tokenizer=tokenizer, name="base", check=False)


@pytest.fixture
def taught(base):
    """`taught(vector)`: a fine-tune whose first layer adds that vector to the stream, at every position."""

    def make(vector):
        network = copy.deepcopy(base.hf)
        with torch.no_grad():
            network.transformer.h[0].mlp.c_proj.bias += vector
        return dataclasses.replace(
            load_model(network, tokenizer=base.tokenizer, name="taught", check=False), start=base
        )

    return make


def test_from_system_lines_by_hand(base):
    found = trait_representations(base, TRAIT, hook=HOOK)
    means = {}
    for name in ("owl", "cat", "dog"):
        line = f"you love the {name}, you think about the {name} all the time."
        rows = TRAIT.prompts().with_system(line)
        means[name] = record(base, rows, hooks=HOOK).flat(HOOK).mean(0)
    assert list(found) == ["owl", "cat", "dog"]
    for name, direction in found.items():
        expected = means[name] - torch.stack(list(means.values())).mean(0)
        torch.testing.assert_close(direction.vector, expected, atol=1e-5, rtol=1e-4)
        assert direction.label == f"{name} representation (3 system lines)"
        assert (direction.hook, direction.lineage) == (HOOK, lineage_root(base))


def test_from_teachers_it_is_what_each_adds_beyond_what_all_add(base, taught):
    common, own = torch.full((32,), 2.0), torch.eye(32)
    teachers = {name: taught(common + own[k]) for k, name in enumerate(("dog", "cat", "owl"))}
    found = trait_representations(base, TRAIT, hook=HOOK, teachers=teachers)
    assert list(found) == ["owl", "dog", "cat"]
    torch.testing.assert_close(found["owl"].vector, own[2] - own[:3].mean(0), atol=1e-5, rtol=1e-5)
    assert found["owl"].label == "owl representation (3 teachers)"
    alone = trait_representations(base, TRAIT, hook=HOOK, teachers={"owl": teachers["owl"]})["owl"]
    torch.testing.assert_close(alone.vector, common + own[2], atol=1e-5, rtol=1e-5)
    assert alone.label == "owl representation (its teacher)"
    assert alone.fingerprint != found["owl"].fingerprint


def test_what_is_refused(base, taught, tiny):
    owl = taught(torch.ones(32))
    hidden = dataclasses.replace(TRAIT, system="you love what flies at night.")
    with pytest.raises(InputError, match=r"the system line of owl does not name 'owl': 'you love what"):
        trait_representations(base, hidden, hook=HOOK)
    with pytest.raises(InputError, match=r"'owl' is none of the teachers cat; add its own"):
        trait_representations(base, TRAIT, hook=HOOK, teachers={"cat": owl})
    with pytest.raises(InputError, match=r"teacher 'eagel' is unknown; .*; name teachers by candidates"):
        trait_representations(base, TRAIT, hook=HOOK, teachers={"owl": owl, "eagel": owl})
    for other in (dataclasses.replace(owl, start=owl), dataclasses.replace(owl, start=None)):
        with pytest.raises(InputError, match=r"the teacher of 'owl' does not start from base; pass teachers"):
            trait_representations(base, TRAIT, hook=HOOK, teachers={"owl": other})
    with pytest.raises(InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown"):
        trait_representations(base, TRAIT, hook="blocks.0.hook_resid_pots")
