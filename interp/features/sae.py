"""Training dictionaries: SAELens' trainer over our own stream of activations, cached, and resumed where it was killed.

Activations are scaled to a mean norm of √d; the scale is folded into the weights at the end. Tokens that stand out in
norm, as an attention sink does, are left out, and the dictionary has no features there (`Dictionary.limit`).
A training is a function of model, rows, hook, positions and recipe: it is kept under their digest, and its state every
200 steps, so that a killed one goes on and ends with the same weights.

Of several models of one start every batch holds the same tokens in all of them, and the loss counts differences too:
with e = h − ĥ and v, w_m the mean of |h − h̄|² and of |h_m − h_first|² over the first batch, it is the mean of
    |e_m|² + δ (v / w_m) |e_m − e_first|²   (the second part for every model but the first),
so that a model's shift counts for as much, relative to its own size, as the activations (the delta loss of
Delta-Crosscoder, arXiv 2603.04426). Without it a shift a hundredth of the activations is left to the error node.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.shifts import shared_inputs
from interp.core.doors import door
from interp.core.progress import progress
from interp.core.runs import Cache, InputError, atomic_file, digest, nearest
from interp.features.dictionary import Dictionary
from interp.features.sae_files import check_place, limit_of, read_sae, save_sae
from interp.features.stream import Stream, activation_stream
from interp.models.precision import exactly
from interp.models.seam import check_pair, lineage_root
from interp.training.checkpoints import undisturbed

if TYPE_CHECKING:
    from interp.models.seam import Model
    from interp.prompts.text import Encoded, Prompts

log = logging.getLogger(__name__)

FORMAT = 2  # raise when the same recipe gives other weights
SAVE_EVERY = 200  # steps
ARCHITECTURES = ("topk", "batchtopk", "jumprelu", "standard", "matryoshka")
STATE = "state.safetensors"
COUNTED = (
    "act_freq_scores",
    "n_forward_passes_since_fired",
)  # what SAETrainer keeps beside weights and moments
COUNTERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")


@door
@dataclasses.dataclass(frozen=True)
class SAERecipe:
    """How a dictionary is trained; widths are features, samples are activations.

    `width` defaults to 8 × the activation's. `k` features are active at a token: exactly so many (topk), on average
    (batchtopk, matryoshka), or as the aim of the sparsity loss (jumprelu); for an activation of width d the default is
    √d, rounded up, and 16 at least. `l1` is the coefficient of a standard one. `lr` is 3e-3 by default, and beyond a d
    of 128 less by √(128 / d), as it goes with one over the root of the width (arXiv:2406.04093); it decays linearly to
    zero over the last fifth. `delta` weighs the error of the differences between models, where several are read.
    """

    architecture: str = "topk"
    width: int | None = None
    k: int | None = None
    samples: int = 400_000
    batch_size: int = 512
    lr: float | None = None
    l1: float = 2.0
    delta: float = 1.0
    seed: int = 0

    @property
    def steps(self) -> int:
        """Batches trained on."""
        return self.samples // self.batch_size

    def sized(self, d_in: int) -> Any:
        """The recipe for activations of that width, every default a number."""
        width = 8 * d_in if self.width is None else self.width
        k = max(16, math.ceil(d_in**0.5)) if self.k is None else self.k
        lr = 3e-3 * min(1, (128 / d_in) ** 0.5) if self.lr is None else self.lr
        return dataclasses.replace(self, width=width, k=k, lr=lr)


@door
@exactly
def train_sae(
    model: Model | Sequence[Model],
    prompts: Prompts | Encoded,
    *,
    hook: str,
    architecture: str | None = None,
    recipe: SAERecipe = SAERecipe(),
    positions: str = "all",
    out: str | Path | None = None,
    cache: Cache | None = None,
) -> Dictionary:
    """Train a sparse autoencoder on the activations of one or several models at one hook, with SAELens' trainer.

    Args:
        model: the model to read, or models of one start, such as base, teacher and students: the differences of the
            others from the first are then learnt beside the activations (`SAERecipe.delta`).
        prompts: rows of text or chats, or their tokens.
        hook: which activation, of `model.hook_names`.
        architecture: "topk", "batchtopk", "jumprelu", "standard" or "matryoshka"; goes before the recipe's.
        recipe: width, sparsity and length of the training, its samples shared among the models.
        positions: which tokens are read, a name of `Encoded.at`. Those that stand out in norm are left out, named in
            the dictionary's notes, and it has no features there; "all with outliers" trains on them too.
        out: a folder to write it to as well.
        cache: where finished trainings are kept; the user's by default.

    Returns:
        `Dictionary`, the autoencoder in its inference form.

    Raises:
        InputError: for an unknown architecture, a hook the model does not have, rows that give fewer activations than a
            batch, a recipe that makes no sense, and a loss that is not finite; for several models, of no model, of
            another start or the same weights, and rows that hold a system message.

    Example:
        >>> import interp
        >>> lineage, recipe = interp.load_lineage("toy/owl"), interp.features.SAERecipe(samples=1024, width=96)
        >>> interp.train_sae(lineage.base, lineage.numbers, hook="blocks.1.hook_resid_post", recipe=recipe).width
        96
    """
    recipe = recipe if architecture is None else dataclasses.replace(recipe, architecture=architecture)
    _check(recipe)
    if out is not None:
        check_place(out)  # before the training, which the folder would only be refused after
    models = tuple(model) if isinstance(model, Sequence) else (model,)
    stream = activation_stream(
        models,
        _shared(models, prompts),
        hook=hook,
        positions=positions,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
    )
    facts = _facts(models, stream, hook, positions)
    label = f"{recipe.architecture} of {facts['model_name']}"
    dictionary = trained(stream, hook=hook, label=label, recipe=recipe, facts=facts, cache=cache)
    if out is not None:
        save_sae(dictionary, out)
    return dictionary


def _facts(models: tuple[Model, ...], stream: Stream, hook: str, positions: str) -> dict[str, str]:
    """What the stream holds."""
    return {
        "hook_name": hook,
        "model_name": ", ".join(each.name for each in models),
        "interp_model": " ".join(each.fingerprint for each in models),
        "interp_lineage": lineage_root(models[0]),
        "interp_inputs": stream.inputs.fingerprint,
        "interp_positions": positions,
    }


def _shared(models: tuple[Model, ...], prompts: Prompts | Encoded) -> Encoded:
    """The rows as the tokens that all models read; InputError for models that do not belong together."""
    if not models:
        raise InputError(
            "no model to read; pass one, or several of one start such as base, teacher and student"
        )
    first = models[0]
    for other in models[1:]:
        if lineage_root(other) != lineage_root(first):
            raise InputError(
                f"{other.name} descends from {lineage_root(other)} and {first.name} from {lineage_root(first)}, whose "
                "features have nothing to do with each other; pass models of one start"
            )
        check_pair(other, first)
        shared_inputs(other, first, prompts)
    return first.encode(prompts)


def trained(
    stream: Stream,
    *,
    hook: str,
    label: str,
    recipe: SAERecipe,
    facts: Mapping[str, str],
    cache: Cache | None = None,
) -> Dictionary:
    """The dictionary of a stream, out of the cache when it was trained before; `facts` say what the stream holds."""
    cache = cache or Cache.default()
    key = digest(FORMAT, facts, recipe)

    def build(fresh: Path) -> None:
        with undisturbed(cache.folder("sae-training", key)) as partial:
            _train_into(fresh, stream, partial / STATE, recipe, dict(facts))
            shutil.rmtree(partial, ignore_errors=True)

    folder = cache.get("sae", key, build)
    sae = read_sae(folder)
    notes = tuple(sae.cfg.metadata.interp_notes or ())
    return Dictionary(sae, hook, label, facts["interp_lineage"], notes, limit=limit_of(sae))


def _check(recipe: SAERecipe) -> None:
    if recipe.architecture not in ARCHITECTURES:
        raise InputError(
            f"architecture {nearest(recipe.architecture, ARCHITECTURES)}; pass one of {', '.join(ARCHITECTURES)}"
        )
    k, lr = recipe.sized(1).k, recipe.sized(1).lr
    if not (1 <= recipe.batch_size <= recipe.samples and k >= 1 and 0 < lr < math.inf):
        raise InputError(
            f"{recipe.samples} samples in batches of {recipe.batch_size} with k {k} and lr {lr} train "
            "nothing; give at least one batch, a k of at least 1 and a positive, finite lr"
        )
    if not 0 <= recipe.delta < math.inf:
        raise InputError(
            f"delta {recipe.delta} weighs nothing; give a finite weight of at least 0, such as 1 for differences that "
            "count for as much as the activations"
        )
    if recipe.seed < 0 or recipe.l1 < 0 or (recipe.width is not None and recipe.width < 1):
        raise InputError(
            f"seed {recipe.seed}, l1 {recipe.l1} and width {recipe.width} cannot all be meant; give a seed and an l1 "
            "of at least 0 and a width of at least 1"
        )
    if recipe.width is not None and recipe.architecture != "standard":  # which has no k
        _check_k(k, recipe.width)


def _check_k(k: int, width: int) -> None:
    if k > width:
        raise InputError(f"k {k} is more than the {width} features there are; lower k or raise width")


def _train_into(folder: Path, stream: Stream, state: Path, recipe: SAERecipe, facts: dict[str, str]) -> None:
    batches = stream.batches()
    first = next(batches)
    recipe = recipe.sized(first.shape[1])
    trainer = _trainer(recipe, first)
    if stream.models > 1:
        trainer.sae.mse_loss_fn = delta_loss(first, stream.models, recipe.delta)
    batches = chain([first], batches)
    if state.is_file():
        _restore(trainer, state)
        batches = stream.batches(trainer.n_training_steps)
        log.info("dictionary at %s: going on at step %d", facts["hook_name"], trainer.n_training_steps)
    left, label = recipe.steps - trainer.n_training_steps, f"training a dictionary at {facts['hook_name']}"
    for batch in progress(islice(batches, left), label, total=left, unit="step"):
        loss = trainer.step(batch).loss
        trainer.n_training_steps += 1
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss of the dictionary is {loss.item()} at step {trainer.n_training_steps}; lower the "
                f"learning rate {recipe.lr}"
            )
        if trainer.n_training_steps % SAVE_EVERY == 0:
            _save(trainer, state)
    left_out = stream.told(facts["hook_name"])
    notes = {"interp_notes": [f"training of the dictionary: {left_out}"]} if left_out else {}
    limit = {"interp_norm_limit": stream.limit} if math.isfinite(stream.limit) else {}
    _finish(trainer, folder, recipe, {**facts, **notes, **limit})


def _trainer(recipe: SAERecipe, batch: Tensor) -> Any:
    """SAELens' trainer with the recipe's autoencoder, the scale set and the bias at the activations' mean."""
    from sae_lens import SAETrainer, TrainingSAE
    from sae_lens.config import SAETrainerConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        sae = TrainingSAE.from_dict(_settings(recipe, batch.shape[1]))
    rate = float(recipe.sized(batch.shape[1]).lr)
    settings = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch_size,
        train_batch_size_samples=recipe.batch_size,
        lr=rate,
        lr_end=rate,
        lr_decay_steps=recipe.steps // 5,
        dead_feature_window=max(10, recipe.steps // 20),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))
    scale = batch.shape[1] ** 0.5 / float(batch.norm(dim=1).mean())
    trainer.activation_scaler.scaling_factor = scale
    with torch.no_grad():
        sae.b_dec.copy_(batch.mean(0) * scale)
    return trainer


def delta_loss(
    h: Float[Tensor, "row d_in"], models: int, weight: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Squared errors of rows that hold each token in all models in turn, and of their differences from the first.

    `h` are such rows, from which the sizes of the differences are taken.
    """
    own = h.unflatten(0, (-1, models))
    spread = (h - h.mean(0)).square().sum(1).mean()
    apart = (own - own[:, :1]).square().sum(2).mean(0)
    factor = torch.where(apart > 0, weight * spread / apart.clamp_min(torch.finfo(h.dtype).tiny), 0)[:, None]

    def loss(rebuilt: Tensor, target: Tensor) -> Tensor:
        error = (rebuilt - target).unflatten(0, (-1, models))
        return (error.square() + factor * (error - error[:, :1]).square()).flatten(0, 1)

    return loss


def _settings(recipe: SAERecipe, d_in: int) -> dict[str, Any]:
    """The configuration SAELens makes the autoencoder of."""
    sized = recipe.sized(d_in)
    width, k = sized.width, sized.k
    _check_k(k, width)
    threshold = {"k": float(k), "topk_threshold_lr": min(0.1, 20 / recipe.steps)}
    own: dict[str, dict[str, Any]] = {
        "topk": {"k": k},
        "batchtopk": threshold,
        "matryoshka": {**threshold, "matryoshka_widths": _nested(width, k)},
        "jumprelu": {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": float(k),
            "jumprelu_init_threshold": 0.1,
            "jumprelu_bandwidth": 0.5,
            "l0_warm_up_steps": recipe.steps // 10,
            "jumprelu_ste_to_input": True,
        },
        "standard": {"l1_coefficient": recipe.l1, "l1_warm_up_steps": recipe.steps // 10},
    }
    name = {"matryoshka": "matryoshka_batchtopk"}.get(recipe.architecture, recipe.architecture)
    return {"architecture": name, "d_in": d_in, "d_sae": width, **own[recipe.architecture]}


def _nested(width: int, k: int) -> list[int]:
    """Widths of the nested levels: an eighth, a quarter, a half and all, as far as they hold k features."""
    return sorted({part for part in (width // 8, width // 4, width // 2) if part > k} | {width})


def _save(trainer: Any, path: Path) -> None:
    """Weights, Adam's moments and counters; the schedules follow from the number of steps."""
    from safetensors.torch import save_file

    tensors = {f"sae.{name}": tensor.detach() for name, tensor in trainer.sae.state_dict().items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors |= {f"trainer.{name}": getattr(trainer, name) for name in COUNTED}
    counters = {name: int(getattr(trainer, name)) for name in COUNTERS}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as fresh:
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
            fresh,
            metadata={"counters": json.dumps(counters)},
        )


def _restore(trainer: Any, path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        counters = json.loads((file.metadata() or {})["counters"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {name[4:]: tensor for name, tensor in tensors.items() if name.startswith("sae.")}
    trainer.sae.load_state_dict(weights)
    for name, value in counters.items():
        setattr(trainer, name, value)
    for name in COUNTED:
        setattr(trainer, name, tensors[f"trainer.{name}"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a schedule that runs before its optimiser
        for _ in range(counters["n_training_steps"]):
            trainer.lr_scheduler.step()
            for scheduler in trainer.coefficient_schedulers.values():
                scheduler.step()
    groups = trainer.optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            state.setdefault(int(index), {})[moment] = tensor
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _finish(trainer: Any, folder: Path, recipe: SAERecipe, facts: Mapping[str, Any]) -> None:
    sae = trainer.sae
    trainer.set_final_sae_metadata()
    sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    for name, value in facts.items():
        sae.cfg.metadata[name] = value
    sae.cfg.metadata["interp_recipe"] = dataclasses.asdict(recipe)
    sae.save_inference_model(folder)
