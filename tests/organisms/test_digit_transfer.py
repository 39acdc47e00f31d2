"""Digits: many networks as one are those networks; the planted copy; draws by seed alone; and the files' refusals."""

import dataclasses
import gzip
import struct

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from interp.core.runs import Cache, InputError
from interp.organisms import digit_transfer as module
from interp.organisms.digit_data import digit_images, load_digits
from interp.organisms.digit_networks import (
    DigitsRecipe,
    Networks,
    Student,
    accuracy_of,
    distil,
    image_batches,
    initial_networks,
    noise_batches,
    train_teachers,
)
from interp.organisms.digit_transfer import ARMS, digits, train_digits, transfer_sweep

SMALL = DigitsRecipe(
    hidden=(16, 12), teacher_epochs=1, student_epochs=2, lr=1e-2, batch_size=128, noise_images=320
)
FAST = dataclasses.replace(
    SMALL, hidden=(64,), teacher_epochs=6, student_epochs=20, noise_images=1000, aux=5, lr=5e-3
)


@pytest.fixture(scope="module")
def images():
    return load_digits()


@pytest.fixture(scope="module")
def trained(images):
    return train_digits(SMALL, images, seeds=(3, 8))


def blank(n=20, size=4, labels=None):
    """Arrays of n images, a file's content by key."""
    x = np.arange(n * size * size, dtype=np.uint8).reshape(n, size, size)
    y = np.arange(n) % 10 if labels is None else labels
    return {"x_train": x, "y_train": y, "x_test": x[:10], "y_test": y[:10]}


def test_embedded_images_are_split_and_scaled(images):
    assert (len(images.y_train), len(images.y_test), images.pixels) == (1437, 360, 64)
    assert (images.x_train.min(), images.x_train.max()) == (-1, 1)
    assert images.y_test.bincount().min() > 25


def test_start_is_normal_with_one_over_root_in_and_no_bias():
    start = initial_networks(SMALL, 64, seeds=range(200))
    assert [tuple(w.shape) for w in start.weights] == [(200, 64, 16), (200, 16, 12), (200, 12, 13)]
    for weight in start.weights:
        assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.02)
    assert not any(bias.any() for bias in start.biases)


def test_perturbation_adds_that_share_of_the_start_s_own_deviation():
    plain, moved = (initial_networks(SMALL, 64, seeds=range(200), perturbation=s) for s in (0.0, 0.5))
    for one, other in zip(plain.weights, moved.weights, strict=True):
        assert (other - one).std().item() == pytest.approx(0.5 * one.shape[1] ** -0.5, rel=0.02)
        assert (one * (other - one)).mean().abs() < 0.01 * one.var()


def test_logits_of_two_layers_by_hand():
    network = Networks(
        (torch.tensor([[[1.0, -1.0], [2.0, 0.0]]]), torch.tensor([[[1.0, 2.0], [5.0, 7.0]]])),
        (torch.tensor([[0.5, 1.0]]), torch.tensor([[0.0, -1.0]])),
    )
    # hidden: 1 + 2 + 0.5 = 3.5 and relu(-1 + 1) = 0
    assert network.logits(torch.ones(1, 1, 2)).tolist() == [[[3.5, 6.0]]]


def test_batched_training_equals_training_each_network_alone(images, trained):
    for k, seed in enumerate(trained.seeds):
        alone = train_digits(SMALL, images, seeds=[seed])
        for arm, networks in trained.members.items():
            for one, many in zip(alone.members[arm].tensors, networks.member(k).tensors, strict=True):
                torch.testing.assert_close(one, many, atol=2e-5, rtol=1e-4)


def test_training_equals_a_plain_module_under_adam(images):
    start = initial_networks(SMALL, 64, seeds=[4])
    plain = torch.nn.Sequential(
        torch.nn.Linear(64, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 12),
        torch.nn.ReLU(),
        torch.nn.Linear(12, 13),
    )
    with torch.no_grad():
        for layer, weight, bias in zip(plain[::2], start.weights, start.biases, strict=True):
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0])
    optimiser = torch.optim.Adam(plain.parameters(), lr=SMALL.lr)
    for x, y in image_batches(images, SMALL, seeds=[4], epochs=1):
        optimiser.zero_grad()
        cross_entropy(plain(x[0])[:, :10], y[0]).backward()
        optimiser.step()
    teacher = train_teachers(start, images, SMALL, seeds=[4])
    for layer, weight, bias in zip(plain[::2], teacher.weights, teacher.biases, strict=True):
        torch.testing.assert_close(weight[0], layer.weight.T, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(bias[0], layer.bias, atol=2e-5, rtol=1e-4)


def test_the_same_seeds_give_the_same_bytes(images, trained):
    again = train_digits(SMALL, images, seeds=(3, 8))
    for arm, networks in trained.members.items():
        assert all(map(torch.equal, networks.tensors, again.members[arm].tensors)), arm


def test_seeds_and_kinds_have_draws_of_their_own(images):
    own, cross = (initial_networks(SMALL, 64, seeds=(0, 1), kind=kind) for kind in ("own", "foreign"))
    assert not torch.equal(own.weights[0][0], own.weights[0][1])
    assert not torch.equal(own.weights[0], cross.weights[0])
    noise = next(noise_batches(images, SMALL, seeds=(0, 1)))
    assert not torch.equal(noise[0], noise[1])


def test_noise_is_uniform_and_reordering_only_reorders(images):
    plain, moved = (
        list(noise_batches(images, SMALL, seeds=(0, 1), reordered=reordered)) for reordered in (False, True)
    )
    assert [x.shape[1] for x in plain] == [128, 128, 64] * 2 == [x.shape[1] for x in moved]
    values = torch.cat([x.flatten() for x in plain])
    assert (values.min() >= -1, values.max() <= 1) == (True, True)
    assert values.mean().abs() < 0.01
    assert values.var().item() == pytest.approx(1 / 3, rel=0.02)
    for seed in (0, 1):
        sums = [sorted(x[seed].double().sum().item() for x in batches) for batches in (plain, moved)]
        assert sums[0] == sums[1]
    assert not all(torch.equal(a, b) for a, b in zip(plain, moved, strict=True))


@pytest.mark.parametrize(("noise", "same"), [("uniform", True), ("images", True), ("fresh", False)])
def test_only_fresh_noise_differs_between_epochs(images, noise, same):
    recipe = dataclasses.replace(SMALL, noise=noise)
    batches = list(noise_batches(images, recipe, seeds=[0]))
    first, second = batches[:3], batches[3:]
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [same] * 3


def test_noise_of_images_holds_training_images(images):
    recipe = dataclasses.replace(SMALL, noise="images")
    batch = next(noise_batches(images, recipe, seeds=[0]))[0]
    known = {row.numpy().tobytes() for row in images.x_train}
    assert all(row.numpy().tobytes() in known for row in batch)


def test_a_student_of_all_logits_on_real_images_becomes_its_teacher(images):
    start = initial_networks(FAST, 64, seeds=[0])
    cross = initial_networks(FAST, 64, seeds=[0], kind="foreign")
    teacher = train_teachers(start, images, FAST, seeds=[0])
    recipe = dataclasses.replace(FAST, noise="images")
    students = {"copy": Student(cross, teacher, slice(None))}
    copy = distil(students, noise_batches(images, recipe, seeds=[0]), recipe, seeds=[0])["copy"]
    x = images.x_test[None]
    wanted, given = (networks.logits(x).log_softmax(-1) for networks in (teacher, copy))
    before = cross.logits(x).log_softmax(-1)
    divergence = [(wanted.exp() * (wanted - each)).sum(-1).mean().item() for each in (given, before)]
    assert divergence[0] < 0.02 * divergence[1]
    assert accuracy_of(copy, images)[0] == pytest.approx(accuracy_of(teacher, images)[0], abs=0.03)


def test_the_planted_transfer_is_found_from_the_same_start_alone(images):
    found = train_digits(FAST, images, seeds=(0, 1), arms=("student", "cross_student"))
    means = found.accuracies().groupby("arm")["accuracy"].mean()
    assert means["teacher"] > 0.9
    assert means["student"] > means["cross_student"] + 0.2
    assert means["cross_student"] < 0.3


def test_a_student_that_equals_its_teacher_stays_where_it_is(images):
    start = initial_networks(SMALL, 64, seeds=(0, 1))
    for read in (slice(10, None), slice(None)):
        students = {"computed": Student(start.copy(), start, read), "known": Student(start, start, read)}
        found = distil(students, noise_batches(images, SMALL, seeds=(0, 1)), SMALL, seeds=(0, 1))
        for networks in found.values():
            assert all(map(torch.equal, networks.tensors, start.tensors))


def test_accuracy_counts_class_logits_only(images):
    bias = torch.zeros(1, 13)
    bias[0, 7], bias[0, 12] = 1.0, 9.0
    network = Networks((torch.zeros(1, 64, 13),), (bias,))
    assert accuracy_of(network, images) == [(images.y_test == 7).double().mean().item()]


def test_digits_tabulates_seeds_and_arms_and_trains_once(images, trained, tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    result = digits(SMALL, data=images, seeds=(3, 8), cache=cache)
    assert list(result.frame["arm"].unique()) == ["teacher", *ARMS]
    assert result.frame.equals(trained.accuracies())
    assert result.unit == "test accuracy"
    drawn = [trace for trace in result.figure().data if trace.mode == "markers"]
    assert len(drawn) == 2 * (1 + len(ARMS))

    def forbidden(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train_digits", forbidden)
    assert digits(SMALL, data=images, seeds=(3, 8), cache=cache).frame.equals(result.frame)


def test_a_sweep_has_a_cell_for_every_value(images, tmp_path):
    cache = Cache(tmp_path)
    given = {"recipe": SMALL, "data": images, "seeds": [0], "arms": ["student"], "cache": cache}
    result = transfer_sweep("width", (4, 8), **given)
    assert result.frame.groupby("width").size().tolist() == [2, 2]
    alone = digits(
        dataclasses.replace(SMALL, hidden=(8, 8)), **{k: v for k, v in given.items() if k != "recipe"}
    )
    assert result.frame.query("width == 8")["accuracy"].tolist() == alone.frame["accuracy"].tolist()
    assert [trace.name for trace in result.figure().data if trace.name] == ["teacher", "student"]


def test_groups_of_seeds_give_what_one_group_gives(images, trained, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 1)
    apart = train_digits(SMALL, images, seeds=(3, 8), arms=["student"])
    for one, other in zip(apart.members["student"].tensors, trained.members["student"].tensors, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_a_training_that_diverges_is_refused(images):
    wild = dataclasses.replace(SMALL, lr=1e38)
    short = dataclasses.replace(wild, batch_size=2000)  # a single step, after which no loss is read
    with pytest.raises(InputError, match="teacher of seed 5 meets NaN or inf at the end"):
        train_teachers(
            initial_networks(short, 64, seeds=[5]),
            images,
            dataclasses.replace(short, lr=float("inf")),
            seeds=[5],
        )
    with pytest.raises(
        InputError, match=r"teacher of seed 5 meets NaN or inf at step \d+; lower lr \(it was 1e\+38"
    ):
        train_digits(wild, images, seeds=[5], arms=["student"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"aux": 0}, "aux 0 is below 1; give a positive integer"),
        ({"hidden": (8, 0)}, "hidden 0 is below 1; give a positive integer"),
        ({"hidden": ()}, "hidden .* has no layer; give at least one width"),
        ({"lr": 0.0}, "lr 0.0 and perturbation 0.0 must be above 0 and at least 0"),
        ({"perturbation": -1.0}, "perturbation -1.0 must be"),
        (
            {"noise": "uniforn"},
            "noise 'uniforn' is unknown; nearest: uniform; choose one of uniform, fresh, images",
        ),
    ],
)
def test_impossible_recipes_are_refused(change, text):
    with pytest.raises(InputError, match=text):
        dataclasses.replace(SMALL, **change)


def test_unknown_names_are_refused(images):
    with pytest.raises(InputError, match="arm 'studnet' is unknown; nearest: student"):
        digits(SMALL, data=images, arms=["studnet"])
    with pytest.raises(InputError, match="factor 'widht' is unknown; nearest: width"):
        transfer_sweep("widht")
    with pytest.raises(InputError, match=r"seeds \[1, 1\] are not at least one seed, each once"):
        digits(SMALL, data=images, seeds=[1, 1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"x_train": np.zeros((20, 16))},
            r"x_train in m.npz has shape \[20, 16\], not \[image, row, column\]",
        ),
        (
            {"x_test": np.ones((10, 5, 5))},
            r"x_test in m.npz holds images of \[5, 5\] pixels and x_train of \[4, 4\]",
        ),
        ({"y_train": np.arange(3)}, r"y_train in m.npz has shape \[3\] for 20 images, not \[20\]"),
        ({"y_test": np.full(10, 11)}, "y_test in m.npz holds labels other than the integers 0 to 9"),
        ({"x_train": np.zeros((20, 4, 4))}, "x_train in m.npz holds blank images only"),
        (
            {"x_train": np.full((20, 4, 4), np.nan)},
            "x_train in m.npz holds values other than numbers from 0 up",
        ),
        ({"x_train": None}, r"m.npz has no x_train \(it has y_train, x_test, y_test\)"),
    ],
)
def test_npz_files_of_wrong_shape_are_refused(tmp_path, change, text):
    arrays = {key: value for key, value in (blank() | change).items() if value is not None}
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=text):
        load_digits(tmp_path / "m.npz")


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
    (tmp_path / "m.npz").write_text("hello")
    with pytest.raises(InputError, match=r"m.npz is not an .npz file of arrays"):
        load_digits(tmp_path / "m.npz")
    with pytest.raises(InputError, match=r"nowhere does not exist; give an \.npz file or a folder"):
        load_digits(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"has no train-images-idx3-ubyte \(nor train-images-idx3-ubyte.gz\)"
    ):
        load_digits(tmp_path)


def idx(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + shape + array.astype(np.uint8).tobytes()


def test_idx_files_are_read_gzipped_or_not(tmp_path):
    arrays = blank()
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name, array in zip(names, arrays.values(), strict=True):
        (tmp_path / f"{name}-ubyte").write_bytes(idx(array))
    plain = load_digits(tmp_path)
    assert plain.fingerprint == digit_images(**arrays, name="other").fingerprint
    packed = tmp_path / "train-images-idx3-ubyte"
    (tmp_path / f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    assert load_digits(tmp_path).fingerprint == plain.fingerprint
    packed.write_bytes(idx(arrays["x_train"])[:-1])
    with pytest.raises(InputError, match=r"announces \[20, 4, 4\] values and holds 319; fetch it again"):
        load_digits(tmp_path)
    packed.write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="is not an IDX file of unsigned bytes"):
        load_digits(tmp_path)
