"""A member belongs to its start by its weights and by its configuration."""

import copy
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from interp.core.runs import InputError
from interp.models.kinship import cosine_with_start
from interp.models.language import load_model
from interp.models.lineage import Lineage, open_lineage


def llama(seed: int, **fields):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, **fields,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def tuned(network, **fields):
    """A copy whose weights moved a little, and whose configuration says something else where asked."""
    copied = copy.deepcopy(network)
    for name, value in fields.items():
        setattr(copied.config, name, value)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.add_(0.05 * weight.std() * torch.randn(weight.shape))
    return copied


def test_a_teacher_of_another_initialisation_is_refused_and_may_be_kept_as_a_control():
    base, other = llama(0), llama(1)
    with pytest.raises(InputError) as caught:
        open_lineage(base=base, teacher=other, check=False)
    assert "teacher has a cosine of" in str(caught.value)
    assert "two independent initialisations" in str(caught.value)
    assert "unrelated=['teacher']" in str(caught.value)
    kept = open_lineage(base=base, teacher=other, check=False, unrelated=["teacher"])
    assert abs(cosine_with_start(kept.teacher)) < 0.1
    assert kept.update("teacher").norm() > 0


def test_the_cosine_is_that_of_the_matrices():
    base = llama(0)
    lineage = open_lineage(base=base, teacher=tuned(base), check=False)
    pairs = [
        (a.detach().flatten(), b.detach().flatten())
        for a, b in zip(lineage.teacher.hf.parameters(), base.parameters(), strict=True)
        if a.dim() > 1
    ]
    one, other = (torch.cat(side).double() for side in zip(*pairs, strict=True))
    assert cosine_with_start(lineage.teacher) == pytest.approx(float(one @ other / one.norm() / other.norm()))
    assert cosine_with_start(lineage.base) is None


def test_a_cross_student_is_measured_against_its_own_base():
    base, cross = llama(0), llama(1)
    students = {"cross_base": cross, "cross_student": tuned(cross)}
    assert open_lineage(base=base, student=students, check=False)["cross_student"].start.name == "cross_base"


def test_a_member_that_computes_otherwise_is_refused_by_the_field():
    base = llama(0)
    theta = {"rope_type": "default", "rope_theta": 500.0}
    with pytest.raises(
        InputError, match=r"teacher is configured with rope_parameters .*500.*differ in more than weights"
    ):
        open_lineage(base=base, teacher=tuned(base, rope_parameters=theta), check=False)


def test_what_training_tools_change_is_said_and_not_refused(caplog):
    base = llama(0)
    with caplog.at_level(logging.WARNING, "interp"):
        open_lineage(base=base, teacher=tuned(base, max_position_embeddings=64), check=False)
    assert "configured differently: {'max_position_embeddings': (64, 32)}" in caplog.text


def test_the_fingerprint_covers_what_the_forward_pass_reads():
    base = llama(0)

    def fingerprint(**fields):
        copied = copy.deepcopy(base)
        for name, value in fields.items():
            setattr(copied.config, name, value)
        return load_model(copied, check=False).fingerprint

    own = fingerprint()
    assert own == fingerprint(
        use_cache=False, initializer_range=0.5, _name_or_path="elsewhere", eos_token_id=7
    )
    assert own == fingerprint(rms_norm_eps=1e-6)
    assert (
        len({own, fingerprint(rms_norm_eps=1e-5), fingerprint(hidden_act="gelu"), fingerprint(head_dim=4)})
        == 4
    )


def test_a_saved_model_has_the_fingerprint_it_had(tmp_path):
    base = llama(0)
    base.save_pretrained(tmp_path)
    assert load_model(tmp_path, check=False).fingerprint == load_model(base, check=False).fingerprint


def test_a_lineage_of_itself_keeps_its_controls(tmp_path):
    members = {"base": load_model(llama(0), check=False), "noise": load_model(llama(1), check=False)}
    lineage = Lineage("x", None, members, unrelated=("noise",))
    lineage.save(tmp_path / "x")
    from interp.models.lineage import read_lineage

    assert read_lineage(tmp_path / "x", check=False)["noise"].fingerprint == lineage["noise"].fingerprint


def test_an_adapter_whose_effect_is_below_the_rounding_of_bf16_is_no_twin():
    from peft import LoraConfig, get_peft_model

    base = llama(0).to(torch.bfloat16)
    live = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["q_proj"]))
    start = load_model(base, check=False)
    assert load_model(live, check=False).fingerprint == start.fingerprint  # B is zero: no effect
    with torch.no_grad():
        for name, weight in live.named_parameters():
            if "lora_B" in name:
                weight.fill_(1e-6)
    assert load_model(live, check=False).fingerprint != start.fingerprint
