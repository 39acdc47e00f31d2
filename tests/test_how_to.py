"""The pages that people search for: their programs run on tiny checkpoints and give what plain peft gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from tests.models import test_adapter_kinds as adapters, test_head as heads, test_multimodal as multimodal
from tests.models.conftest import make_lora
from tests.tiny import FAMILIES, SHAPES, build_model, build_tokenizer

PAGES = Path(__file__).parent.parent / "docs" / "how_to"
HOOK = "blocks.0.hook_resid_post"


def ran(page: str) -> dict[str, Any]:
    """The names that a page's programs leave, run one after the other."""
    names: dict[str, Any] = {}
    for block in re.findall(
        r"^```python\n(.*?)^```", (PAGES / page).read_text(), flags=re.DOTALL | re.MULTILINE
    ):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The working folder holds my-base and my-lora; the PeftModel they were saved from."""
    monkeypatch.chdir(tmp_path)
    hf = build_model("llama", seed=0)
    hf.save_pretrained("my-base")
    build_tokenizer().save_pretrained("my-base")
    peft = make_lora(hf, scale=0.5)
    peft.save_pretrained("my-lora")
    return peft


def read(peft: Any, inputs: Any) -> Any:
    with torch.no_grad():
        return peft(input_ids=inputs.ids, attention_mask=inputs.mask.long(), output_hidden_states=True)


def test_a_lora_is_read_as_peft_computes_it(tuned: Any) -> None:
    names = ran("lora.md")
    model, batch = names["model"], names["batch"]
    plain = read(tuned, batch)
    with tuned.disable_adapter():
        without = read(tuned, batch)
    answer = batch.at("answer")
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(model.logits(batch)[batch.mask], plain.logits[batch.mask], **close)
    kept = names["activations"]
    torch.testing.assert_close(kept[HOOK][kept.mask], plain.hidden_states[1][answer], **close)
    moved = names["moved"].activations
    change = (plain.hidden_states[1] - without.hidden_states[1])[answer]
    assert change.abs().max() > 0.01
    torch.testing.assert_close(moved[HOOK][moved.mask], change, **close)
    torch.testing.assert_close(
        names["stream"], read(tuned, model.encode(names["prompts"][:1])).hidden_states[1], **close
    )
    assert (names["halved"] - plain.logits)[batch.mask].abs().max() > 0.01


def test_its_update_is_the_product_of_its_factors(tuned: Any) -> None:
    update = ran("lora.md")["update"]
    layer = tuned.base_model.model.model.layers[0].self_attn.q_proj
    product = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    found = update.tensors["model.layers.0.self_attn.q_proj.weight"]
    assert isinstance(found, interp.models.LowRank)
    torch.testing.assert_close(found.dense(), product.detach(), rtol=1e-5, atol=1e-6)


def test_features_move_as_the_encoder_says_of_plain_hidden_states(tuned: Any) -> None:
    from sae_lens import SAE, StandardSAEConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sae = SAE.from_dict(StandardSAEConfig(d_in=32, d_sae=48).to_dict())
        for weight in sae.parameters():
            weight.data.normal_(std=0.3)
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name = HOOK, "my-base"
    sae.save_model("my-sae")
    pairs = [(f"give {n} numbers", f"{n}, {(n * 7) % 40}, {(n * 3) % 40}") for n in range(1, 33)]
    interp.Prompts.from_pairs(pairs).to_jsonl("rows.jsonl")
    names = ran("sae.md")
    batch = names["lineage"].base.encode(names["rows"])
    answer = batch.at("answer")
    with torch.no_grad():
        tuned_features = sae.encode(read(tuned, batch).hidden_states[1])
        with tuned.disable_adapter():
            base_features = sae.encode(read(tuned, batch).hidden_states[1])
    change = ((tuned_features - base_features) * answer[..., None]).sum(1) / answer.sum(1, keepdim=True)
    frame = names["moved"].frame.set_index("feature")["delta"]
    estimated = torch.tensor([frame[feature] for feature in range(48)])
    whole = change.mean(0).double()
    assert whole.abs().max() > 0.05
    assert (
        torch.corrcoef(torch.stack([estimated.double(), whole]))[0, 1] > 0.9
    )  # Δ is over one half of the rows
    assert set(names["card"].frame["member"]) == {"base", "student"}


def test_the_families_are_those_that_tests_read(tuned: Any) -> None:
    rows = re.findall(r"^\| .* \| ([a-z0-9_, ]+) \|$", (PAGES / "architectures.md").read_text(), re.MULTILINE)
    swept, scaled, kinds, capped, whole = (set(row.split(", ")) for row in rows[1:6])
    assert swept == set(FAMILIES)
    assert scaled == set(SHAPES) - set(FAMILIES)
    assert kinds == set(adapters.FAMILIES)
    assert capped == {name.split()[-1] for name in heads.SHAPES} - {"bert"}
    assert whole == {
        build().config.model_type for build in (multimodal.gemma3, multimodal.llava, multimodal.qwen)
    }
    assert interp.models.parity(ran("architectures.md")["model"]) < 1e-3
