"""Where models come from, and one sentence for every way a checkpoint can be wrong."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.models.loading import find_folder, load_tokenizer
from tests.tiny import FAMILIES, build_tokenizer


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_model_that_was_saved(saved, tiny, family):
    folder = saved(family)
    hf, tokenizer = tiny(family)
    model = load_model(folder)
    assert model.name == "checkpoint"
    assert model.fingerprint == load_model(hf, check=False).fingerprint
    assert model.tokenizer("the owl 12")["input_ids"] == tokenizer("the owl 12")["input_ids"]


def test_dtype_is_the_checkpoints_unless_asked_for(saved):
    folder = saved()
    assert load_model(folder, check=False).dtype == torch.float32
    assert load_model(str(folder), dtype="bfloat16", check=False).dtype == torch.bfloat16


def test_the_real_checkpoint_loads(request):
    folder = request.config.rootpath.parent / "shared/data/checkpoints/tinystories-656k"
    if not folder.is_dir():
        pytest.skip("the real checkpoint is not on this machine")
    model = load_model(folder)
    assert (model.n_layers, model.d_model, model.context) == (2, 128, 512)


def test_a_tokenizer_that_would_split_differently_is_not_swapped_in(tmp_path, tiny):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|endoftext|>"]
    )
    backend.train_from_iterator(["123 123 345 999 owl"] * 20, trainer)
    ours = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    hf, _ = tiny("qwen2")
    hf.save_pretrained(tmp_path)
    ours.save_pretrained(tmp_path)
    rewrite(tmp_path / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    expected = ours("the owl 345")["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path)("the owl 345")["input_ids"] != expected
    assert load_tokenizer(tmp_path)("the owl 345")["input_ids"] == expected


def test_a_folder_without_tokenizer_has_none(tmp_path):
    assert load_tokenizer(tmp_path) is None


def test_an_adapter_is_added_to_its_base(saved, tiny, lora, tmp_path):
    folder = saved()
    peft = lora(tiny("llama")[0])
    peft.save_pretrained(tmp_path / "adapter")
    model = load_model(folder, adapter=tmp_path / "adapter")
    assert model.name == "adapter"
    assert model.fingerprint == load_model(peft, check=False).fingerprint
    assert model.start is not None
    assert model.start.fingerprint == load_model(folder, check=False).fingerprint


def test_several_adapters_add_up(saved, tiny, lora, tmp_path):
    folder, hf = saved(), tiny("llama")[0]
    alone = []
    for seed in (1, 2):
        lora(hf, seed=seed).save_pretrained(tmp_path / f"adapter{seed}")
        alone.append(load_model(folder, adapter=tmp_path / f"adapter{seed}", check=False).parameters())
    both = load_model(folder, adapter=[tmp_path / "adapter1", tmp_path / "adapter2"])
    base = dict(hf.named_parameters())
    for name, weight in both.parameters().items():
        assert torch.allclose(weight, alone[0][name] + alone[1][name] - base[name], atol=1e-6)


def test_an_adapter_folder_that_names_its_base_is_enough(saved, tiny, lora, tmp_path):
    saved(name="base")
    peft = lora(tiny("llama")[0])
    peft.save_pretrained(tmp_path / "adapter")
    rewrite(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="../base")
    assert load_model(tmp_path / "adapter").fingerprint == load_model(peft, check=False).fingerprint
    rewrite(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(InputError, match=r"is an adapter that names no base; pass the base and adapter="):
        load_model(tmp_path / "adapter")


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
def test_a_module_that_transformers_put_on_one_device_is_that_module(saved, prompts, device_map):
    folder = saved()
    mapped = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map)
    model = load_model(mapped, tokenizer=load_tokenizer(folder))
    batch = model.encode(prompts)
    plain = AutoModelForCausalLM.from_pretrained(folder)(
        input_ids=batch.ids, attention_mask=batch.mask.long()
    )
    assert torch.allclose(model.logits(batch)[batch.mask], plain.logits[batch.mask], atol=1e-5)
    assert model.fingerprint == load_model(folder, check=False).fingerprint


def test_a_module_on_several_devices_is_refused(tiny):
    hf, _ = tiny("llama")
    hf.model.layers[1].to("meta")  # as device_map leaves layers that it keeps on disk
    with pytest.raises(
        InputError, match="lies on cpu and meta, and a model lies on one device here, since hooks"
    ):
        load_model(hf, check=False)


class TestNames:
    """A name is a folder, else a cached repository, else the hub's business."""

    def test_a_path_that_is_not_there(self, tmp_path):
        with pytest.raises(
            InputError, match=r"there is no folder .*/nowhere; pass a model folder, or a name like 'gpt2'"
        ):
            load_model(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"there is no folder nowhere/at/all"):
            load_model("./nowhere/at/all")

    def test_a_file_is_not_a_folder(self, saved):
        with pytest.raises(
            InputError, match=r"model.safetensors is a file; pass the folder that holds config.json"
        ):
            load_model(saved() / "model.safetensors")

    def test_offline_and_not_cached(self):
        with pytest.raises(
            InputError, match=r"'nobody/nothing' is neither a folder nor in .* HF_HUB_OFFLINE is set"
        ):
            load_model("nobody/nothing")

    def test_offline_and_cached(self, saved, tmp_path, monkeypatch):
        repository = tmp_path / "hub" / "models--owner--tiny"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(saved(), repository / "snapshots" / ("0" * 40))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        assert find_folder("owner/tiny").name == "0" * 40
        assert load_model("owner/tiny", check=False).name == "tiny"

    def test_a_hub_that_does_not_answer(self, monkeypatch):
        def refuse(*_, **options):
            assert options["timeout"] <= 10
            raise ConnectionError("no route to host")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
        with pytest.raises(
            InputError, match=r"the hub did not give it \(ConnectionError: no route to host\)"
        ):
            load_model("nobody/nothing")


class TestBrokenCheckpoints:
    """Each is refused before anything is computed from it."""

    def refuse(self, folder, message):
        with pytest.raises(InputError, match=message):
            load_model(folder, check=False)

    def test_no_config(self, saved):
        folder = saved()
        (folder / "config.json").unlink()
        self.refuse(folder, r"is no model folder \(no config.json\); pass one that save_pretrained wrote")

    def test_config_that_is_not_json(self, saved):
        folder = saved()
        (folder / "config.json").write_text("{")
        self.refuse(folder, r"config.json is not valid JSON")

    def test_an_architecture_nobody_knows(self, saved):
        folder = saved()
        rewrite(folder / "config.json", model_type="wonder")
        self.refuse(folder, r"has model_type 'wonder', which is unknown to transformers")
        rewrite(folder / "config.json", auto_map={"AutoConfig": "wonder.Config"})
        self.refuse(folder, r"has model_type 'wonder', which needs code of its own, which is never run")

    @pytest.mark.parametrize("size", [0, 4, 2000, -100])
    def test_truncated_weights(self, saved, size):
        folder = saved()
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:size])
        self.refuse(folder, r"model.safetensors is truncated or not safetensors \(.*\); copy it again")

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
    def test_pickles_are_never_opened(self, saved, name):
        folder = saved()
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        self.refuse(
            folder, rf"holds its weights as a pickle \({name}\), which can run code when opened; convert it"
        )

    def test_no_weights(self, saved):
        folder = saved()
        (folder / "model.safetensors").unlink()
        self.refuse(folder, r"has a config.json and no \*.safetensors; copy the weights beside it")

    def test_a_missing_shard(self, saved):
        folder = saved()
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refuse(folder, r"lacks model-2.safetensors, which model.safetensors.index.json lists")

    def test_a_missing_tensor(self, saved):
        folder = saved()
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.refuse(
            folder, r"lacks or misshapes 1 weights its config.json asks for, first model.layers.1.mlp.up_proj"
        )

    def test_a_misshapen_tensor(self, saved):
        folder = saved()
        rewrite(folder / "config.json", intermediate_size=48)
        self.refuse(folder, r"cannot be loaded as a causal language model|lacks or misshapes")

    def test_nan(self, saved):
        folder = saved()
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][5] = float("nan")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self.refuse(folder, r"has NaN or inf in model.norm.weight \(1 of 32 values\)")


class TestAdaptersOfAnotherBase:
    """PEFT skips what does not fit without a word; here it is refused."""

    @pytest.fixture
    def base(self, saved):
        return load_model(saved(), check=False)

    def refuse(self, base, folder, message):
        with pytest.raises(InputError, match=message):
            base.with_adapter(folder, check=False)

    def adapter(self, peft, tmp_path):
        peft.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    def test_other_module_names(self, base, tiny, lora, tmp_path):
        folder = self.adapter(lora(tiny("gpt_neox")[0]), tmp_path)
        self.refuse(base, folder, r"was made for another base than this llama with 2 layers \(.*not found")

    def test_another_width(self, base, lora, tmp_path):
        folder = self.adapter(lora(grown(hidden_size=64)), tmp_path)
        self.refuse(
            base, folder, r"was made for another base than this llama with 2 layers \(.*; pass its own base"
        )

    def test_another_depth(self, base, lora, tmp_path):
        folder = self.adapter(lora(grown(num_hidden_layers=3)), tmp_path)
        self.refuse(
            base, folder, r"was made for another base .* tensors without a counterpart, first .*layers.2"
        )

    def test_a_shallower_one(self, base, lora, tmp_path):
        folder = self.adapter(lora(grown(num_hidden_layers=1)), tmp_path)
        self.refuse(
            base, folder, r"was made for another base .* tensors without a counterpart, first .*layers.1"
        )

    def test_no_adapter_at_all(self, base, tmp_path):
        (tmp_path / "empty").mkdir()
        self.refuse(base, tmp_path / "empty", r"is no PEFT adapter \(no adapter_config.json\)")

    def test_a_pickled_adapter(self, base, tiny, lora, tmp_path):
        folder = self.adapter(lora(tiny("llama")[0]), tmp_path)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        self.refuse(base, folder, r"holds its weights as a pickle \(adapter_model.bin\)")

    def test_a_truncated_adapter(self, base, tiny, lora, tmp_path):
        folder = self.adapter(lora(tiny("llama")[0]), tmp_path)
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-64])
        self.refuse(base, folder, r"adapter_model.safetensors is truncated or not safetensors")

    def test_an_adapter_with_nan(self, base, tiny, lora, tmp_path):
        folder = self.adapter(lora(tiny("llama")[0], scale=float("nan")), tmp_path)
        self.refuse(base, folder, r"has NaN or inf in .*lora_A")

    def test_a_model_in_the_place_of_an_adapter(self, base, saved):
        self.refuse(base, saved(name="other"), r"is no PEFT adapter")


def grown(**changes):
    """The tiny llama in another size."""
    from transformers import AutoModelForCausalLM

    from tests.tiny import build_model

    config = build_model("llama", seed=0).config
    config.update(changes)
    return AutoModelForCausalLM.from_config(config).eval()


def test_an_adapter_that_changes_no_weights_is_refused(tiny):
    from peft import PromptTuningConfig, get_peft_model

    peft = get_peft_model(tiny("llama")[0], PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(
        InputError, match=r"has a PROMPT_TUNING adapter, which changes no weights; pass a LoRA"
    ):
        load_model(peft, tokenizer=build_tokenizer())


class TestSavedTypes:
    """What the file holds is what is loaded, whatever type config.json names."""

    @pytest.fixture
    def disagreeing(self, tiny, tmp_path):
        """Writes a checkpoint in one type whose config.json names another; a `wide` weight is in float32."""

        def write(saved, named, wide=None):
            hf, tokenizer = tiny("llama")
            hf = copy.deepcopy(hf).to(saved)
            hf.save_pretrained(tmp_path / "odd")
            tokenizer.save_pretrained(tmp_path / "odd")
            weights = load_file(tmp_path / "odd" / "model.safetensors")
            if wide:
                weights[wide] = weights[wide].float() * 1.0001
            save_file(weights, tmp_path / "odd" / "model.safetensors", metadata={"format": "pt"})
            rewrite(tmp_path / "odd" / "config.json", dtype=named, torch_dtype=named)
            return tmp_path / "odd", weights

        return write

    @pytest.mark.parametrize(
        ("saved", "named", "wide"),
        [
            (torch.float32, "bfloat16", None),
            (torch.bfloat16, "float16", None),
            (torch.float16, "bfloat16", None),
            (torch.bfloat16, "bfloat16", "model.norm.weight"),
        ],
    )
    def test_they_hold_against_the_configuration(self, disagreeing, caplog, saved, named, wide):
        folder, weights = disagreeing(saved, named, wide)
        model = load_model(folder, check=False)
        held = torch.float32 if wide else saved
        assert model.dtype == held
        for name, weight in model.parameters().items():
            assert torch.equal(weight, weights[name].to(held)), name
        said = f"says {named} and the weights are saved in {str(held)[6:]}, in which they are loaded"
        assert said in caplog.text

    def test_a_wider_configuration_rounds_nothing_and_is_followed(self, disagreeing, caplog):
        folder, weights = disagreeing(torch.bfloat16, "float32")
        model = load_model(folder, check=False)
        assert model.dtype == torch.float32
        assert all(torch.equal(weight, weights[name].float()) for name, weight in model.parameters().items())
        assert "are saved in" not in caplog.text

    def test_what_is_asked_for_comes_first(self, disagreeing, caplog):
        folder, _ = disagreeing(torch.float32, "bfloat16")
        assert load_model(folder, dtype="bfloat16", check=False).dtype == torch.bfloat16
        assert "are saved in" not in caplog.text


class TestWhatIsGivenBeside:
    """A tokenizer by its place, and modules that are no language models."""

    def test_a_tokenizer_by_its_folder(self, saved, tiny):
        hf, tokenizer = tiny("llama")
        model = load_model(hf, tokenizer=str(saved()), check=False)
        assert model.tokenizer("the owl 12")["input_ids"] == tokenizer("the owl 12")["input_ids"]

    def test_a_place_without_one_is_refused(self, saved, tiny, tmp_path):
        hf = tiny("llama")[0]
        hf.save_pretrained(tmp_path / "bare")
        for place, message in {
            tmp_path / "bare": "holds no tokenizer; pass a folder with tokenizer.json, or a loaded tokenizer",
            saved() / "tokenizer.json": "is a file; pass the folder that holds it",
            "./nowhere": "there is no folder nowhere",
        }.items():
            with pytest.raises(InputError, match=message):
                load_model(hf, tokenizer=place, check=False)

    def test_a_module_without_a_head_is_refused(self, tiny, lora):
        hf, tokenizer = tiny("llama")
        for module in (hf.base_model, lora(hf.base_model), torch.nn.Linear(2, 2)):
            with pytest.raises(
                InputError,
                match=r"(LlamaModel|Linear) predicts no tokens, as .* transformers' AutoModelForCausalLM",
            ):
                load_model(module, tokenizer=tokenizer, check=False)
