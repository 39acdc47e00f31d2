"""Dictionaries from folders and releases: what belongs to the model comes back, what does not is refused in words."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.core.runs import InputError
from interp.features.sae_files import load_sae, save_sae
from interp.models.language import load_model
from tests.features.handmade import handmade, mirrored

HOOK = "blocks.0.hook_resid_post"


def loaded(tiny, family="llama", seed=0, name="llama"):
    hf, tokenizer = tiny(family, seed)
    return load_model(hf, tokenizer=tokenizer, name=name)


@pytest.fixture
def llama(tiny):
    return loaded(tiny)


@pytest.fixture
def folder(llama, tmp_path):
    made = handmade(mirrored(32), mirrored(32).T, hook=HOOK, model=llama, label="saved")
    return save_sae(made, tmp_path / "saved")


def edited(folder, **metadata):
    """The folder with other metadata; None takes a key out."""
    config = json.loads((folder / "cfg.json").read_text())
    for key, value in metadata.items():
        config["metadata"].pop(key, None)
        if value is not None:
            config["metadata"][key] = value
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_folder_comes_back(folder, llama):
    back = load_sae(folder, model=llama)
    h = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(back.reconstruct(h), h)
    assert (back.hook, back.label, back.notes) == (HOOK, "saved", ())
    assert back.lineage == llama.fingerprint


def test_sae_lens_reads_it_too(folder):
    from sae_lens import SAE

    assert SAE.load_from_disk(folder, device="cpu").cfg.metadata.hook_name == HOOK


def test_notes_and_links_are_kept(llama, tmp_path):
    made = handmade(
        mirrored(32), mirrored(32).T, hook=HOOK, model=llama, notes=("a note",), neuronpedia="llama/0-res"
    )
    back = load_sae(save_sae(made, tmp_path / "kept"), model=llama)
    assert back.notes == ("a note",)
    assert back.link(3) == "https://neuronpedia.org/llama/0-res/3"


def test_heads_are_read_flat(llama, tmp_path):
    hook = "blocks.0.attn.hook_z"
    folder = save_sae(handmade(mirrored(32), mirrored(32).T, hook=hook, model=llama), tmp_path / "z")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"reshape_activations": "hook_z"}))
    h = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_sae(folder, model=llama).reconstruct(h), h)


def test_one_of_the_base_fits_what_was_trained_from_it(folder, llama, tiny):
    hf, tokenizer = tiny("llama", 1)
    student = dataclasses.replace(load_model(hf, tokenizer=tokenizer, name="student"), start=llama)
    assert load_sae(folder, model=student).lineage == llama.fingerprint
    edited(folder, interp_lineage=None, model_name="meta/Llama")
    assert load_sae(folder, model=student).notes == ()


OLD = {
    "model_name": "llama",
    "hook_layer": 0,
    "hook_head_index": None,
    "context_size": 128,
    "d_in": 32,
    "d_sae": 64,
    "dtype": "torch.float32",
    "device": "cpu",
    "finetuning_scaling_factor": False,
}
RUNNER = {"l1_coefficient": 8e-5, "lr": 4e-4, "normalize_sae_decoder": True, "training_tokens": 1000}


class TestOldFolders:
    """Folders of SAELens before release 6, against f = act((h − b_dec) W_enc + b_enc) and f W_dec + b_dec."""

    def write(self, folder, **config):
        generator = torch.Generator().manual_seed(0)
        shapes = {"W_enc": (32, 64), "W_dec": (64, 32), "b_enc": (64,), "b_dec": (32,)}
        weights = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        folder.mkdir(exist_ok=True)
        save_file(weights, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps({**OLD, **config}))
        return weights, 2 * torch.randn(20, 32, generator=generator)

    @pytest.mark.parametrize(
        "config",
        [
            {"hook_name": HOOK, "activation_fn_str": "relu", "normalize_activations": "none", **RUNNER},
            {"hook_point": HOOK, "hook_point_layer": 0, "l1_coefficient": 8e-5},
            {"hook_name": HOOK, "architecture": "standard", "apply_b_dec_to_input": False, **RUNNER},
            {"hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, **RUNNER},
        ],
        ids=["with its runner", "first names", "bias not subtracted", "topk"],
    )
    def test_are_read_as_their_formula(self, llama, tmp_path, config):
        w, h = self.write(tmp_path / "old", **config)
        dictionary = load_sae(tmp_path / "old", model=llama)
        pre = (h - w["b_dec"] * config.get("apply_b_dec_to_input", True)) @ w["W_enc"] + w["b_enc"]
        features = pre.relu()
        if "activation_fn_kwargs" in config:
            features = features * (pre >= pre.topk(4, dim=-1).values[:, -1:])
        torch.testing.assert_close(dictionary.encode(h), features)
        torch.testing.assert_close(dictionary.reconstruct(h), features @ w["W_dec"] + w["b_dec"])
        assert (dictionary.hook, dictionary.notes) == (HOOK, ())

    def test_a_factor_that_was_never_folded_in_is_said(self, llama, tmp_path, caplog):
        self.write(tmp_path / "old", hook_name=HOOK, normalize_activations="expected_average_only_in")
        dictionary = load_sae(tmp_path / "old", model=llama)
        (note,) = dictionary.notes
        assert "never folded in): it is read at factor 1, so features and reconstruction may be off" in note
        assert note in caplog.text
        assert load_sae(save_sae(dictionary, tmp_path / "again"), model=llama).notes == (note,)

    def test_rewritten_weights_are_said(self, llama, tmp_path):
        processed = {"center_writing_weights": True, "fold_ln": False}
        self.write(tmp_path / "old", hook_name=HOOK, model_from_pretrained_kwargs=processed)
        (note,) = load_sae(tmp_path / "old", model=llama).notes
        assert "on weights that TransformerLens had rewritten (center_writing_weights)" in note

    @pytest.mark.parametrize(
        ("config", "named"),
        [
            ({"activation_fn_str": "tanh-relu"}, "'tanh-relu'"),
            ({"activation_fn": "topk"}, "'topk' without its k"),
            ({"architecture": "topk"}, "'topk' without its k"),
            ({"activation_fn": "topk", "k": 4}, "'topk' without its k"),
        ],
    )
    def test_a_function_that_would_be_misread_is_refused(self, llama, tmp_path, config, named):
        self.write(tmp_path / "old", hook_name=HOOK, **config)
        with pytest.raises(
            InputError, match=f"activation function {named}, which SAELens no longer reads as it was"
        ):
            load_sae(tmp_path / "old", model=llama)

    def test_whitening_that_was_never_folded_in_is_refused(self, llama, tmp_path):
        self.write(tmp_path / "old", hook_name=HOOK, normalize_activations="covariance_whitening")
        with pytest.raises(InputError, match=r"changed by 'covariance_whitening', which is not folded in"):
            load_sae(tmp_path / "old", model=llama)


class TestRefusals:
    def test_another_model(self, folder, tiny):
        other = loaded(tiny, seed=1, name="stranger")
        with pytest.raises(InputError, match=r"dictionary saved was trained on .*, not on stranger"):
            load_sae(folder, model=other)
        moved = load_sae(folder, model=other, allow_transfer=True)
        assert moved.lineage == other.fingerprint
        assert moved.notes[0].startswith("transfer: dictionary saved was trained on ")

    def test_another_name_where_no_fingerprint_is_known(self, folder, llama):
        edited(folder, interp_lineage=None, model_name="google/gemma-2-2b")
        with pytest.raises(InputError, match=r"was trained on google/gemma-2-2b, not on llama"):
            load_sae(folder, model=llama)
        edited(folder, model_name="meta/Llama")
        assert load_sae(folder, model=llama).notes == ()
        edited(folder, model_name=None)
        with pytest.raises(InputError, match="was trained on a model it does not name, not on llama"):
            load_sae(folder, model=llama)

    def test_another_width(self, llama, tmp_path):
        narrow = save_sae(handmade(mirrored(8), mirrored(8).T, hook=HOOK, model=llama), tmp_path / "narrow")
        for allow in (False, True):
            with pytest.raises(InputError, match=r"narrow reads activations of width 8, and llama has 32"):
                load_sae(narrow, model=llama, allow_transfer=allow)

    def test_another_hook(self, folder, llama):
        with pytest.raises(InputError, match=r"was trained at blocks.0.hook_resid_post, not at blocks.1"):
            load_sae(folder, model=llama, hook="blocks.1.hook_resid_post")
        edited(folder, hook_name="blocks.9.hook_resid_post")
        with pytest.raises(InputError, match=r"hook 'blocks.9.hook_resid_post' is unknown; nearest"):
            load_sae(folder, model=llama)
        edited(folder, hook_name=None)
        with pytest.raises(InputError, match="does not say which hook it reads; pass hook="):
            load_sae(folder, model=llama)
        assert load_sae(folder, model=llama, hook=HOOK).hook == HOOK

    @pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "standard"])
    def test_training_form(self, llama, tmp_path, architecture):
        from sae_lens import TrainingSAE

        sae = TrainingSAE.from_dict({"architecture": architecture, "d_in": 32, "d_sae": 64})
        sae.cfg.metadata.hook_name = HOOK
        sae.save_model(tmp_path / "raw")
        with pytest.raises(InputError, match=r"in training form .*; write it with save_inference_model"):
            load_sae(tmp_path / "raw", model=llama)

    def test_not_finite(self, folder, llama):
        path = folder / "sae_weights.safetensors"
        weights = load_file(path)
        weights["W_dec"][0, 0] = torch.nan
        save_file(weights, path)
        with pytest.raises(InputError, match=r"dictionary .* has NaN or inf in W_dec \(1 of 2048 values\)"):
            load_sae(folder, model=llama)

    def test_truncated(self, folder, llama):
        path = folder / "sae_weights.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"sae_weights.safetensors is truncated or damaged"):
            load_sae(folder, model=llama)

    def test_missing_parts(self, folder, llama, tmp_path):
        with pytest.raises(InputError, match="there is no folder nowhere; pass a folder that"):
            load_sae("nowhere", model=llama)
        (folder / "sae_weights.safetensors").rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"has no sae_weights.safetensors; write it again"):
            load_sae(folder, model=llama)
        (folder / "cfg.json").write_text("{")
        with pytest.raises(InputError, match=r"cfg.json is not valid JSON"):
            load_sae(folder, model=llama)
        (folder / "cfg.json").unlink()
        with pytest.raises(InputError, match=r"has no cfg.json; pass a folder that save_inference_model"):
            load_sae(folder, model=llama)

    def test_of_no_architecture(self, folder, llama):
        config = json.loads((folder / "cfg.json").read_text())
        for change in ({"architecture": "unheard"}, {"metadata": None}, {"d_sae": 63}):
            (folder / "cfg.json").write_text(json.dumps(config | change))
            with pytest.raises(InputError, match=r"cannot be read as an autoencoder"):
                load_sae(folder, model=llama)

    def test_transcoder(self, llama, tmp_path):
        from sae_lens import SAE

        coder = SAE.from_dict(
            {
                "architecture": "transcoder",
                "d_in": 32,
                "d_out": 32,
                "d_sae": 64,
                "apply_b_dec_to_input": False,
            }
        )
        coder.cfg.metadata.hook_name = HOOK
        coder.save_model(tmp_path / "coder")
        with pytest.raises(InputError, match="is a transcoder, which predicts another activation"):
            load_sae(tmp_path / "coder", model=llama)

    def test_a_folder_has_no_id(self, folder, llama):
        with pytest.raises(
            InputError, match=r"is a folder, which holds one .* no sae_id 'x'; leave sae_id out"
        ):
            load_sae(folder, "x", model=llama)

    def test_features_with_signs(self, llama, tmp_path):
        from sae_lens import TrainingSAE

        sae = TrainingSAE.from_dict({"architecture": "abstopk", "d_in": 32, "d_sae": 64, "k": 4})
        sae.cfg.metadata.hook_name = HOOK
        sae.save_inference_model(tmp_path / "signed")
        with pytest.raises(InputError, match="is of architecture 'abstopk', whose features are signed"):
            load_sae(tmp_path / "signed", model=llama)

    def test_releases(self, llama):
        with pytest.raises(
            InputError, match=r"release no/such/place \(x\) cannot be read .*; pass a release"
        ):
            load_sae("no/such/place", "x", model=llama)
        with pytest.raises(
            InputError, match=r"SAE release 'gpt2-small-res-jbb' is unknown; nearest: .*gpt2-small-res-jb"
        ):
            load_sae("gpt2-small-res-jbb", "blocks.0.hook_resid_pre", model=llama)
        with pytest.raises(InputError, match=r"SAE 'blocks.77.hook_resid_pre' is unknown; nearest"):
            load_sae("gpt2-small-res-jb", "blocks.77.hook_resid_pre", model=llama)
        with pytest.raises(
            InputError, match=r"is not on this machine and the hub cannot be asked .*pass a folder"
        ):
            load_sae("gpt2-small-res-jb", "blocks.0.hook_resid_pre", model=llama)

    def test_saving_over_something_else(self, llama, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(InputError, match="exists and is no dictionary; choose a new or an empty folder"):
            save_sae(handmade(mirrored(32), mirrored(32).T, hook=HOOK, model=llama), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
