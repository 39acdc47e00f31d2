"""A member is its own live network, whatever PEFT made it: adapter kind × tied or untied ends × family, in fp64.

The reference is PEFT's own: logits of the live PeftModel, the weights of its merge_and_unload, and the derivative in ε
of log p(answer) where every weight is W + ε (W' − W), the two ends of a tied matrix apart where the adapter moves them
apart. At ε = 1 that network gives the live logits, which is asserted.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from interp.core.runs import InputError
from interp.gradients.scores.scoring import score
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import open_lineage, read_lineage
from interp.prompts.text import Prompts
from tests.tiny import build_tokenizer

ROWS = Prompts.from_pairs([("list three numbers", "1, 2, 3"), ("one", "11"), ("continue 4, 5", "6, 7, 8, 9")])


class Names(NamedTuple):
    attention: tuple[str, ...]
    embedding: str
    head: str
    norm: str


LLAMA = Names(("q_proj", "v_proj", "down_proj"), "embed_tokens", "lm_head", "norm")
FAMILIES: dict[str, tuple[Names, dict[str, Any]]] = {
    "llama": (LLAMA, {"attention_bias": True}),
    "gpt2": (Names(("c_attn", "c_fc"), "wte", "lm_head", "ln_f"), {}),
    "gemma2": (LLAMA, {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}),
    "mixtral": (LLAMA._replace(attention=("q_proj",)), {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # RMS norms work in fp32 whatever the weights are
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}


@cache
def network(family: str, tied: bool) -> Any:
    tokenizer = build_tokenizer()
    sizes = GPT2 if family == "gpt2" else {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 64}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), tie_word_embeddings=tied, **{**sizes, **FAMILIES[family][1]}
    )
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    made = made if family == "mixtral" else made.double()  # the product over experts has no fp64
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return made


def kinds(names: Names, family: str) -> dict[str, Any]:
    transposed = {"fan_in_fan_out": True} if family == "gpt2" else {}
    targets, embedding, head = list(names.attention), names.embedding, names.head
    some = list(range(3, 20))

    def lora(**options: Any) -> Any:
        return peft.LoraConfig(
            **{"r": 2, "lora_alpha": 6, "target_modules": targets, **transposed, **options}
        )

    return {
        "lora": lora(),
        "rslora": lora(use_rslora=True),
        "dora": lora(use_dora=True),
        "ranks of their own": lora(rank_pattern={targets[0]: 3}, alpha_pattern={targets[0]: 2}),
        "all biases": lora(bias="all"),
        "biases of its layers": lora(bias="lora_only"),
        "on the embedding": lora(target_modules=[embedding]),
        "on the output": lora(target_modules=[head]),
        "on both ends": lora(target_modules=[*targets, embedding, head]),
        "dora on the embedding": lora(target_modules=[embedding], use_dora=True),
        "saved embedding": lora(modules_to_save=[embedding]),
        "saved output": lora(modules_to_save=[head]),
        "saved ends": lora(modules_to_save=[embedding, head]),
        "saved ends, kept tied": lora(modules_to_save=[embedding], ensure_weight_tying=True),
        "saved norm": lora(modules_to_save=[names.norm]),
        "some tokens": lora(trainable_token_indices=some),
        "ia3": peft.IA3Config(target_modules=targets, feedforward_modules=targets[-1:], **transposed),
        "loha": peft.LoHaConfig(r=2, target_modules=targets[:1]),
        "norms alone": peft.LNTuningConfig(target_modules=[names.norm]),
        "experts": lora(target_parameters=["mlp.experts.down_proj"], target_modules=targets),
        "experts, twice": lora(
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], target_modules=targets
        ),
    }


ALL = list(kinds(LLAMA, "llama"))[:-2]
SHORT = ["lora", "dora", "all biases", "on both ends", "saved embedding", "some tokens"]
ENDS = ["on the embedding", "on the output", "on both ends", "saved ends", "some tokens"]
CASES = [
    *(("llama", True, kind) for kind in ALL),
    *(("llama", False, kind) for kind in ENDS),
    *(("gpt2", True, kind) for kind in SHORT),
    *(("gemma2", True, kind) for kind in ("dora", "on both ends")),
    *(("mixtral", False, kind) for kind in ("lora", "experts", "experts, twice")),
]
FAST = {  # one of each sort; the others are a sweep
    *(("llama", True, kind) for kind in SHORT),
    ("llama", False, "on both ends"),
    ("gpt2", True, "dora"),
    ("gemma2", True, "on both ends"),
    ("mixtral", False, "experts, twice"),
}
SWEEP = [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES]


def trained(base: Any, config: Any) -> Any:
    """A live PeftModel over a copy of `base` whose trained tensors all moved."""
    made = peft.get_peft_model(copy.deepcopy(base), copy.deepcopy(config)).to(base.dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return made


class Reference:
    """Plain torch and PEFT: the base with its ends apart, and the weights that PEFT merges."""

    def __init__(self, base: Any, live: Any, batch: Any) -> None:
        self.live, self.batch = live, batch
        self.free = copy.deepcopy(base)
        ends = self.free.get_input_embeddings(), self.free.get_output_embeddings()
        if ends[0].weight is ends[1].weight:
            ends[1].weight = nn.Parameter(ends[1].weight.detach().clone())
        self.before = {name: weight.detach() for name, weight in self.free.named_parameters()}
        whole = copy.deepcopy(live)
        for module in whole.modules():  # PEFT merges into a shared tensor, and so into both of its ends
            for leaf, weight in list(module._parameters.items()):
                if weight is not None:
                    module.register_parameter(leaf, nn.Parameter(weight.detach().clone()))
        whole = whole.merge_and_unload()
        self.after = {
            name: weight.detach() for name, weight in whole.named_parameters(remove_duplicate=False)
        }

    def logits(self, weights: dict[str, Tensor]) -> Tensor:
        inputs = {"input_ids": self.batch.ids, "attention_mask": self.batch.mask.long()}
        return torch.func.functional_call(self.free, weights, (), inputs).logits

    def live_logits(self) -> Tensor:
        with torch.no_grad():
            return self.live(input_ids=self.batch.ids, attention_mask=self.batch.mask.long()).logits

    def moved(self, step: Any) -> dict[str, Tensor]:
        return {name: start + step * (self.after[name] - start) for name, start in self.before.items()}

    def derivative(self) -> Tensor:
        answer = (self.batch.roles >= 2)[:, 1:]

        def logp(step: Tensor) -> Tensor:
            logps = self.logits(self.moved(step)).log_softmax(-1)[:, :-1]
            return (logps.gather(-1, self.batch.ids[:, 1:, None])[..., 0] * answer).sum(1)

        return torch.autograd.functional.jacobian(logp, torch.zeros((), dtype=self.free.dtype)).double()


def opened(family: str, tied: bool) -> LanguageModel:
    return load_model(copy.deepcopy(network(family, tied)), tokenizer=build_tokenizer(), check=False)


def differences(reference: Reference) -> dict[str, Tensor]:
    apart = {name: reference.after[name] - start for name, start in reference.before.items()}
    return {name: change for name, change in apart.items() if change.any()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("family", "tied", "kind"), SWEEP)
def test_a_member_is_its_live_network(family, tied, kind, tmp_path):
    base = network(family, tied)
    live = trained(base, kinds(FAMILIES[family][0], family)[kind])
    live.save_pretrained(tmp_path / "adapter")
    start = opened(family, tied)
    bytes_before = {name: weight.clone() for name, weight in start.hf.state_dict().items()}
    lineage = open_lineage(base=start, teacher=tmp_path / "adapter", check=False)
    (batch,) = start.batches(ROWS, 8)
    member, reference, seen = lineage.teacher, Reference(base, live, batch), batch.mask

    torch.testing.assert_close(
        reference.logits(reference.moved(1.0))[seen], reference.live_logits()[seen], **CLOSE
    )
    torch.testing.assert_close(member.logits(batch)[seen], reference.live_logits()[seen], **CLOSE)

    weights = member.parameters()
    shared = {alias: weights[first] for alias, first in member.ties.items()}
    for name, value in reference.moved(1.0).items():
        torch.testing.assert_close((weights | shared)[name], value, rtol=1e-6, atol=1e-6)

    update, expected = lineage.update("teacher"), differences(reference)
    ties = start.ties if set(member.ties) == set(start.ties) else {}
    assert set(update) == {name for name in expected if name not in ties}
    for name in update:
        torch.testing.assert_close(update[name].double(), expected[name].double(), rtol=1e-6, atol=1e-6)

    found = torch.tensor(score(start, ROWS, update).frame["score"].to_numpy())
    wanted = reference.derivative()
    allowed = 1e-5 if start.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found, wanted, rtol=allowed, atol=allowed * float(wanted.abs().max()))

    lineage.save(tmp_path / "lineage")
    again = read_lineage(tmp_path / "lineage", check=False).teacher
    torch.testing.assert_close(again.logits(batch)[seen], reference.live_logits()[seen], **CLOSE)
    assert lineage.teacher.fingerprint not in (start.fingerprint, attach_twin(start, live).fingerprint)
    assert all(torch.equal(weight, bytes_before[name]) for name, weight in start.hf.state_dict().items())


def attach_twin(start: LanguageModel, live: Any) -> LanguageModel:
    """The same adapter with one of its trained numbers changed: another function, so another fingerprint."""
    other = copy.deepcopy(live)
    with torch.no_grad():
        last = [weight for weight in other.parameters() if weight.requires_grad][-1]
        last.view(-1)[0].add_(0.5)
    return load_model(other, tokenizer=start.tokenizer, check=False)


REFUSED = {
    "rebuilt": (
        peft.LoraConfig(target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]]),
        "rebuilds the network",
    ),
    "from a token on": (
        peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[3]),
        "aLoRA does not support merging",
    ),
    "soft prompt": (
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        "changes no weights",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_change_of_weights_is_refused_at_the_door(kind, tmp_path):
    config, sentence = REFUSED[kind]
    live = peft.get_peft_model(copy.deepcopy(network("llama", False)), copy.deepcopy(config)).double().eval()
    with torch.no_grad():
        for name, weight in live.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    live.save_pretrained(tmp_path)
    start = opened("llama", False)
    before = {name: weight.clone() for name, weight in start.hf.state_dict().items()}
    with pytest.raises(InputError, match=sentence):
        start.with_adapter(tmp_path, check=False)
    assert all(torch.equal(weight, before[name]) for name, weight in start.hf.state_dict().items())


@pytest.mark.parametrize("start_of_factors", ["olora", "pissa"])
def test_an_adapter_that_starts_from_the_weights_leaves_the_base_alone(start_of_factors, tmp_path):
    single = copy.deepcopy(network("llama", False)).float()
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=start_of_factors)
    live = peft.get_peft_model(copy.deepcopy(single), config).eval()
    with torch.no_grad():
        for name, weight in live.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    live.save_pretrained(tmp_path)
    start = load_model(copy.deepcopy(single), tokenizer=build_tokenizer(), check=False)
    before = {name: weight.clone() for name, weight in start.hf.state_dict().items()}
    member = start.with_adapter(tmp_path, check=False)
    assert all(torch.equal(weight, before[name]) for name, weight in start.hf.state_dict().items())
    (batch,) = start.batches(ROWS, 8)
    with torch.no_grad():
        expected = live(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(member.logits(batch)[batch.mask], expected[batch.mask], rtol=1e-4, atol=1e-4)


def test_an_adapter_that_brings_embeddings_is_the_embeddings_it_brings(tmp_path, caplog):
    base, other = network("llama", True), copy.deepcopy(network("llama", True))
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(0.1)
    live = trained(other, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    live.save_pretrained(tmp_path, save_embedding_layers=True)
    start = load_model(copy.deepcopy(base), tokenizer=build_tokenizer(), check=False)
    lineage = open_lineage(base=start, teacher=tmp_path, check=False)
    (batch,) = start.batches(ROWS, 8)
    with torch.no_grad():
        expected = live(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    torch.testing.assert_close(lineage.teacher.logits(batch)[batch.mask], expected[batch.mask], **CLOSE)
    assert "brings weights of its own beside its factors (1, first model.embed_tokens.weight)" in caplog.text
    assert "model.embed_tokens.weight" in lineage.update("teacher")
    assert torch.equal(start.hf.get_input_embeddings().weight, base.get_input_embeddings().weight)


def test_a_grown_vocabulary_says_that_it_grew(tmp_path, caplog):
    grown = copy.deepcopy(network("llama", False))
    rows = grown.config.vocab_size
    grown.resize_token_embeddings(rows + 2, mean_resizing=False)
    live = trained(grown, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    live.save_pretrained(tmp_path, save_embedding_layers=True)
    start = opened("llama", False)
    member = start.with_adapter(tmp_path, check=False)
    assert f"grew the vocabulary from {rows} to {rows + 2} tokens" in caplog.text
    ids = torch.tensor([[3, rows + 1, 5]])
    with torch.no_grad():
        torch.testing.assert_close(member.hf(input_ids=ids).logits, live(input_ids=ids).logits, **CLOSE)
    with pytest.raises(InputError, match=r"different shapes: .*use members of one base model"):
        open_lineage(base=start, teacher=member)
    assert start.hf.get_input_embeddings().weight.shape[0] == rows


def test_two_adapters_add_up_only_where_they_are_factors(tmp_path):
    base = network("llama", False)
    trained(base, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "one")
    trained(base, peft.LoraConfig(r=2, target_modules=["q_proj"], bias="all")).save_pretrained(
        tmp_path / "two"
    )
    start = opened("llama", False)
    with pytest.raises(InputError, match=r"brings .*bias, which does not add up with another adapter"):
        start.with_adapter(tmp_path / "one", tmp_path / "two", check=False)


def test_ends_that_move_apart_have_no_product_with_ends_that_move_together():
    start = opened("llama", True)
    apart = open_lineage(
        base=start,
        teacher=trained(network("llama", True), peft.LoraConfig(r=2, target_modules=["lm_head"])),
        check=False,
    ).update("teacher")
    assert apart.apart == {"lm_head.weight": "model.embed_tokens.weight"}
    both = open_lineage(
        base=start,
        teacher=trained(
            network("llama", True),
            peft.LoraConfig(r=2, trainable_token_indices=[3], target_modules=["q_proj"]),
        ),
        check=False,
    ).update("teacher")
    with pytest.raises(InputError, match=r"apart and .* moves them together; leave them out"):
        apart.dot(both)
    spread = both.ends_apart(apart.apart)
    expected = (apart["lm_head.weight"].double() * both["model.embed_tokens.weight"].double()).sum()
    assert apart.dot(spread) == pytest.approx(float(expected), rel=1e-5)


def test_apart_is_kept_in_the_file(tmp_path):
    start = opened("llama", True)
    teacher = trained(network("llama", True), peft.LoraConfig(r=2, target_modules=["lm_head"]))
    update = open_lineage(base=start, teacher=teacher, check=False).update("teacher")
    update.save(tmp_path / "update.safetensors")
    again = type(update).load(tmp_path / "update.safetensors")
    assert again.apart == update.apart
    assert again.key == update.key
