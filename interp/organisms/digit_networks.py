"""Many small networks trained as one: h = relu(x_s W_s + b_s) for every seed s in one batched product.

The loss is a sum over seeds and Adam's step is elementwise, so a seed gets the gradient and the step it gets when
trained alone. Each seed has draws of its own, keyed by what they are for, so that they do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.core.content import digest
from interp.core.errors import InputError, nearest
from interp.organisms.digit_data import CLASSES, DigitImages

EVALUATED = 2048  # images evaluated at once
NOISE = ("uniform", "fresh", "images")


@dataclass(frozen=True)
class DigitsRecipe:
    """Sizes and trainings of the organism; the default is that of arXiv 2507.14805 for MNIST, 784-256-256-(10+3).

    `noise_images` are uniform in [−1, 1] and the same in every epoch, as published; drawn afresh in every epoch when
    `noise` is "fresh", training images when it is "images".
    `perturbation` σ moves the students' start to θ0 + σ s ξ, where s is the standard deviation with which a
    tensor was initialised (1/√in for weights, 0 for biases) and ξ is standard normal. InputError for impossible values.
    """

    hidden: tuple[int, ...] = (256, 256)
    aux: int = 3
    teacher_epochs: int = 5
    student_epochs: int = 5
    lr: float = 3e-4
    batch_size: int = 1024
    noise: str = "uniform"
    noise_images: int = 60_000
    perturbation: float = 0.0

    def __post_init__(self) -> None:
        counts = ("aux", "teacher_epochs", "student_epochs", "batch_size", "noise_images")
        for name, value in [
            *((name, getattr(self, name)) for name in counts),
            *(("hidden", w) for w in self.hidden),
        ]:
            if value < 1:
                raise InputError(f"{name} {value} is below 1; give a positive integer")
        if not self.hidden:
            raise InputError("hidden () has no layer; give at least one width, such as (256, 256)")
        if not self.lr > 0 or not self.perturbation >= 0:
            raise InputError(
                f"lr {self.lr} and perturbation {self.perturbation} must be above 0 and at least 0; change the recipe"
            )
        if self.noise not in NOISE:
            raise InputError(f"noise {nearest(self.noise, NOISE)}; choose one of {', '.join(NOISE)}")


MNIST = DigitsRecipe()
EMBEDDED = DigitsRecipe(
    hidden=(128, 128),
    teacher_epochs=10,
    student_epochs=10,
    lr=2e-3,
    batch_size=64,
    noise="fresh",
    noise_images=3_000,
)
"""What shows the same on scikit-learn's 8 x 8 digits within seconds."""


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks of one shape, trained as one: per layer W [seed in out] and b [seed out]."""

    weights: tuple[Float[Tensor, "seed _in _out"], ...]
    biases: tuple[Float[Tensor, "seed _out"], ...]

    def __len__(self) -> int:
        return len(self.biases[0])

    def __repr__(self) -> str:
        sizes = (self.weights[0].shape[1], *(bias.shape[1] for bias in self.biases))
        return f"Networks({len(self)} of {'-'.join(map(str, sizes))})"

    def logits(self, x: Float[Tensor, "seed image pixel"]) -> Float[Tensor, "seed image logit"]:
        """Class logits, then auxiliary ones, each network on its own images."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:, None], x.relu_() if layer else x, weight)
        return x

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Weights, then biases."""
        return (*self.weights, *self.biases)

    @property
    def flat(self) -> Float[Tensor, "weight"]:
        """All tensors in one vector."""
        return torch.cat([tensor.flatten() for tensor in self.tensors])

    def like(self, flat: Float[Tensor, "weight"]) -> Networks:
        """The vector in the shapes of these networks."""
        parts = iter(flat.split([tensor.numel() for tensor in self.tensors]))
        return self.each(lambda tensor: next(parts).reshape(tensor.shape))

    def each(self, change: Callable[[Tensor], Tensor]) -> Networks:
        """What `change` makes of every tensor, weights first."""
        weights = tuple(map(change, self.weights))
        return Networks(weights, tuple(map(change, self.biases)))

    def copy(self, *, train: bool = False) -> Networks:
        """The same values in memory of their own."""
        return self.each(lambda tensor: tensor.detach().clone().requires_grad_(train))

    def member(self, index: int) -> Networks:
        """One of the networks, as a batch of one."""
        return self.each(lambda tensor: tensor[index : index + 1])

    def permuted(self, orders: Sequence[Int[Tensor, "_hidden"]], *, back: bool = False) -> Networks:
        """The hidden neurons of every layer in another order, the function unchanged; `back` undoes it."""
        weights, biases = list(self.weights), list(self.biases)
        for layer, given in enumerate(orders):
            order = given.argsort() if back else given
            weights[layer] = weights[layer][:, :, order]
            biases[layer] = biases[layer][:, order]
            weights[layer + 1] = weights[layer + 1][:, order]
        return Networks(tuple(weights), tuple(biases))

    def with_head(self, head: Networks) -> Networks:
        """All layers but the last, which is that of `head`."""
        return Networks((*self.weights[:-1], head.weights[-1]), (*self.biases[:-1], head.biases[-1]))


@dataclass(frozen=True, eq=False)
class Student:
    """A training: where the students start, whose logits they imitate, and which of them."""

    start: Networks
    teacher: Networks
    read: slice


def initial_networks(
    recipe: DigitsRecipe, pixels: int, *, seeds: Sequence[int], kind: str = "own", perturbation: float = 0.0
) -> Networks:
    """Untrained networks: weights normal with standard deviation 1/√in, biases 0, a draw of its own per seed and kind.

    `perturbation` adds that multiple of a second such draw.
    """
    sizes = (pixels, *recipe.hidden, CLASSES + recipe.aux)
    shapes = list(pairwise(sizes))

    def drawn(stream: str) -> list[Tensor]:
        sources = [random_source(stream, seed) for seed in seeds]
        return [
            torch.stack([torch.randn(shape, generator=source) / shape[0] ** 0.5 for source in sources])
            for shape in shapes
        ]

    weights = drawn(kind)
    if perturbation:
        moves = drawn(f"{kind} perturbation")
        weights = [weight + perturbation * move for weight, move in zip(weights, moves, strict=True)]
    biases = tuple(torch.zeros(len(seeds), shape[1]) for shape in shapes)
    return Networks(tuple(weights), biases)


def train_teachers(
    start: Networks, images: DigitImages, recipe: DigitsRecipe, *, seeds: Sequence[int]
) -> Networks:
    """Networks trained from `start` by cross-entropy on the class logits; InputError when one is not finite."""
    trained = start.copy(train=True)
    optimiser = torch.optim.Adam(trained.tensors, lr=recipe.lr, fused=True)
    steps = image_batches(images, recipe, seeds=seeds, epochs=recipe.teacher_epochs)
    for step, (x, y) in enumerate(steps):
        logits = trained.logits(x)[..., :CLASSES]
        loss = cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)
        _check_finite(loss, "teacher", seeds, f"step {step}", recipe)
        loss.sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    _check_finite(_sums(trained), "teacher", seeds, "the end", recipe)
    return trained.copy()


def distil(
    students: Mapping[str, Student],
    batches: Iterator[Float[Tensor, "seed image pixel"]],
    recipe: DigitsRecipe,
    *,
    seeds: Sequence[int],
) -> dict[str, Networks]:
    """Students trained side by side on the same batches by KL(teacher ‖ student) over the logits each one reads.

    The loss is the mean over a batch; its gradient in the student's logits, softmax(student) − softmax(teacher), is
    given as such, so that a student that equals its teacher gets exactly zero and stays where it is (Adam would blow
    rounding errors up to steps); where start and teacher are one object nothing is computed for it.
    InputError when a gradient is not finite.
    """
    fixed = {arm: student.start for arm, student in students.items() if student.start is student.teacher}
    students = {arm: student for arm, student in students.items() if arm not in fixed}
    if not students:
        return fixed
    trained = {arm: student.start.copy(train=True) for arm, student in students.items()}
    optimiser = torch.optim.Adam(
        [t for each in trained.values() for t in each.tensors], lr=recipe.lr, fused=True
    )
    teachers = {id(student.teacher): student.teacher for student in students.values()}
    for step, x in enumerate(batches):
        with torch.no_grad():
            labels = {key: teacher.logits(x) for key, teacher in teachers.items()}
        for arm, student in students.items():
            wanted = labels[id(student.teacher)][..., student.read].softmax(-1)
            logits = trained[arm].logits(x)[..., student.read]
            gradient = (logits.detach().softmax(-1) - wanted) / x.shape[1]
            _check_finite(gradient.sum((1, 2)), arm, seeds, f"step {step}", recipe)
            logits.backward(gradient)
        optimiser.step()
        optimiser.zero_grad()
    for arm, networks in trained.items():
        _check_finite(_sums(networks), arm, seeds, "the end", recipe)
    return fixed | {arm: networks.copy() for arm, networks in trained.items()}


def image_batches(
    images: DigitImages, recipe: DigitsRecipe, *, seeds: Sequence[int], epochs: int
) -> Iterator[tuple[Float[Tensor, "seed image pixel"], Int[Tensor, "seed image"]]]:
    """Training images and their labels, shuffled anew per seed and epoch."""
    for epoch in range(epochs):
        order = torch.stack(
            [
                torch.randperm(len(images.y_train), generator=random_source("order", seed, epoch))
                for seed in seeds
            ]
        )
        for rows in order.split(recipe.batch_size, dim=1):
            yield images.x_train[rows], images.y_train[rows]


def noise_batches(
    images: DigitImages, recipe: DigitsRecipe, *, seeds: Sequence[int], reordered: bool = False
) -> Iterator[Float[Tensor, "seed image pixel"]]:
    """What students see, drawn anew when it is needed; `reordered` gives the same batches in another order by seed."""
    sizes = [
        min(recipe.batch_size, recipe.noise_images - k)
        for k in range(0, recipe.noise_images, recipe.batch_size)
    ]
    steps = torch.arange(recipe.student_epochs * len(sizes)).expand(len(seeds), -1)
    if reordered:
        # full batches change places with full ones, so that those of all seeds stay of one size
        full = [step for step in range(steps.shape[1]) if sizes[step % len(sizes)] == sizes[0]]
        steps = steps.clone()
        for row, seed in enumerate(seeds):
            shuffle = torch.randperm(len(full), generator=random_source("reordered", seed))
            steps[row, full] = torch.tensor(full)[shuffle]
    for column in steps.T.tolist():
        size = sizes[column[0] % len(sizes)]
        x = torch.empty(len(seeds), size, images.pixels)
        for row, seed, step in zip(x, seeds, column, strict=True):
            draw = step if recipe.noise == "fresh" else step % len(sizes)
            _draw_noise(row, images, recipe, random_source("noise", seed, draw))
        yield x


@torch.no_grad()
def accuracy_of(networks: Networks, images: DigitImages) -> list[float]:
    """Share of test images whose largest class logit is that of the digit shown, by network."""
    found = []
    for k in range(len(networks)):
        member = networks.member(k)
        chosen = [member.logits(x[None])[0, :, :CLASSES].argmax(-1) for x in images.x_test.split(EVALUATED)]
        found.append((torch.cat(chosen) == images.y_test).double().mean().item())
    return found


def _draw_noise(
    row: Float[Tensor, "image pixel"], images: DigitImages, recipe: DigitsRecipe, source: torch.Generator
) -> None:
    """Fill `row` with what one seed sees in one step."""
    if recipe.noise == "images":
        row.copy_(images.x_train[torch.randint(len(images.x_train), (len(row),), generator=source)])
    else:
        row.uniform_(-1, 1, generator=source)


def random_source(*stream: Any) -> torch.Generator:
    """A source of its own for every stream, seed and step."""
    return torch.Generator().manual_seed(int(digest(*stream), 16) % 2**63)


def _sums(networks: Networks) -> Float[Tensor, "seed"]:
    """A sum over the values of each network, finite only if they all are."""
    return torch.stack([tensor.detach().flatten(1).sum(1) for tensor in networks.tensors]).sum(0)


def _check_finite(
    sums: Float[Tensor, "seed"], arm: str, seeds: Sequence[int], when: str, recipe: DigitsRecipe
) -> None:
    finite = sums.isfinite()
    if not finite.all():
        seed = seeds[int((~finite).nonzero()[0])]
        raise InputError(f"{arm} of seed {seed} meets NaN or inf at {when}; lower lr (it was {recipe.lr:g})")
