"""How far a gradient step on each row moves along a direction: exact, streamed, resumable.

score_ik = −<∇θ ℓ_i, v_k> = <∇θ log p(y_i | x_i), v_k>, in nats per unit of v_k: positive when a step on row i moves
along v_k. ℓ_i sums −log p over the answer and end tokens. An optimiser's metric P is folded into the direction once,
−<P⁻¹ ∇ℓ, v> = −<∇ℓ, P⁻¹ v>. Summed over modules, positions, heads or loss tokens, every table gives the same totals.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.content import digest
from interp.core.doors import door
from interp.core.progress import progress_bar
from interp.core.ranks import Ranks
from interp.core.runs import Cache
from interp.figures import Shown
from interp.gradients.nulls.lean_verdicts import LeanVerdict, lean_verdict
from interp.gradients.nulls.samples import Sample
from interp.gradients.scores.engine import find_sites
from interp.gradients.scores.plan import RoutePlan, check_keys, make_plan
from interp.gradients.scores.preparation import as_directions, check_cosine, check_rows, prepared
from interp.gradients.scores.tables import read_tables, write_table
from interp.gradients.scores.trial import check_room, try_once
from interp.gradients.scores.work import Work
from interp.models.parameters import ParameterDirection
from interp.models.precision import exactly
from interp.prompts.notes import noting
from interp.prompts.tokens import Encoded

if TYPE_CHECKING:
    import pandas as pd

    from interp.figures import Result
    from interp.gradients.nulls.lean_tables import Place
    from interp.gradients.scores.metrics import Metric
    from interp.models.language import LanguageModel
    from interp.prompts.text import Prompts

log = logging.getLogger(__name__)

FORMAT = 1  # of cached shards; raise when the same arguments give another table
SHARD = 512  # rows; what a killed run computes again at most
UNIT = "nats per unit of direction"


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Shown):
    """Scores of rows along directions; the tables are in `files`, one per shard, and are read on demand.

    `totals` [row, direction] and `loss`, `tokens` [row] are in memory: 16 bytes per row and 8 per direction. `weights`
    is the fingerprint of the model that was scored at, empty where that is unknown.
    """

    label: str
    directions: tuple[str, ...]
    by: tuple[str, ...]
    plan: RoutePlan
    totals: Float[Tensor, "row direction"]
    loss: Float[Tensor, "row"]
    tokens: Int[Tensor, "row"]
    files: tuple[Path, ...]
    inputs: Encoded
    tokenizer: Any = None
    unit: str = UNIT
    notes: tuple[str, ...] = ()
    weights: str = ""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The tidy table: keys, direction, score; by example alone also loss (nats), tokens, per_token and cosine."""
        return read_tables(self.files, by=self.by)

    def examples(self) -> pd.DataFrame:
        """One line per row and direction: row, direction, score, loss, tokens, per_token; whatever `by` is."""
        import pandas as pd

        n, k = self.totals.shape
        frame = pd.DataFrame(
            {
                "row": np.repeat(np.arange(n), k),
                "direction": np.tile(np.array(self.directions, dtype=object), n),
                "score": self.totals.flatten().numpy(),
                "loss": np.repeat(self.loss.numpy(), k),
                "tokens": np.repeat(self.tokens.numpy().astype(int), k),
            }
        )
        return frame.assign(per_token=frame["score"] / frame["tokens"])

    def verdict(
        self,
        *,
        neutral: Scores | None = None,
        direction: str | None = None,
        mismatched: Sequence[str] | None = None,
        alpha: float = 0.01,
    ) -> LeanVerdict:
        """Whether the rows lean along `direction` (the first) more than a neutral teacher's rows and other directions.

        `neutral` are that teacher's rows scored along the same directions, paired by prompt; `mismatched` defaults to
        every other direction. Without both controls the verdict is inconclusive and says which is missing. The units
        are prompts of one lineage, which support nothing about other trainings: see `across_lineages`.
        """

        def sample(scores: Scores) -> Sample:
            return Sample.of(scores.totals, scores.directions, scores.inputs)

        other = None if neutral is None else sample(neutral)
        return lean_verdict(
            sample(self), neutral=other, direction=direction, mismatched=mismatched, alpha=alpha
        )

    def leans(
        self,
        nulls: Mapping[str, Sequence[str]],
        *,
        neutral: Scores | None = None,
        place: Place = "whole",
        seed: int = 0,
    ) -> Result:
        """Several directions beside one another in standard deviations per prompt, each among nulls of its own family.

        `nulls` names directions that were scored, and for each those it is ranked among, also scored; `place` tells
        leans apart by "layer", "module", "token" (these need their key in `by`) or "row". Columns: direction, place,
        score (mean per prompt, less `neutral`, the rows of a neutral teacher), d (the same over its standard deviation)
        with a 95 % t-interval, p (one-sided, against the neutral rows; NaN without), rank (by d, 1 is furthest) and of;
        by row score, d and rank alone. Over places scores add up. Raises InputError for what was not scored.
        """
        from interp.gradients.nulls.lean_tables import lean_table

        return lean_table(self, nulls, neutral=neutral, place=place, seed=seed)

    def save(self, path: str | Path) -> Path:
        """Write the whole table as one parquet file, shard after shard, or nothing."""
        return write_table(self.files, Path(path), by=self.by)

    def figure(self, **options: Any) -> Any:
        """Draw the scores by their keys: see `interp.gradients.scores.views.draw_scores`."""
        from interp.gradients.scores.views import draw_scores

        return draw_scores(self, **options)

    def __len__(self) -> int:
        return len(self.totals)

    def __repr__(self) -> str:
        values = zip(self.directions, self.totals.mean(0).tolist(), standard_errors(self), strict=True)
        means = ", ".join(
            f"{name} {mean:+.3g}" + (f" ± {error:.2g}" if error is not None else "")
            for name, mean, error in list(values)[:3]
        )
        more = len(self.directions) - 3
        return (
            f"Scores({self.label}: {len(self)} rows by {', '.join(self.by)}; mean {means}"
            f"{f' and {more} more' if more > 0 else ''} {self.unit}; {self.plan.route})"
        )


def standard_errors(scores: Scores) -> list[float | None]:
    """The standard error over rows of every direction's mean score; None for one row."""
    n = len(scores)
    return (scores.totals.std(0) / n**0.5).tolist() if n > 1 else [None] * scores.totals.shape[1]


@door
@noting
@exactly
def score(
    model: LanguageModel,
    rows: Prompts | Encoded,
    direction: ParameterDirection | Sequence[ParameterDirection],
    *,
    by: str | Collection[str] = ("example",),
    metric: Metric | None = None,
    cosine: bool = False,
    transfer: bool = False,
    batch_size: int = 64,
) -> Scores:
    """Score how far a gradient step on each row moves along one direction or several, at the weights of `model`.

    score = <∇θ log p(answer | prompt), v>. Finished shards come from the cache, so that a killed call continues;
    torchrun's ranks share them in one $INTERP_CACHE. Judged by retraining on random halves of the rows (`interp test
    judged-scores`, the toy), sums of scores rank the students at ρ = 0.06 along the margin's gradient and 0.02 along
    the teacher's update, 0.13 and 0.08 in the adapter's metric (`LoraMetric`), the gradient at 0.18 in that of the
    adapter's Adam (`LoraAdam`), the exact `metagradient` at 0.46: they tell data sets apart, hardly which row matters.

    Args:
        model: where the gradients are taken.
        rows: rows with answers, or their tokens.
        direction: one or several directions v in weight space, such as `trait_gradient` or `lineage.update("teacher")`.
        by: any of "example", "token" (of the loss), "position" (of the input), "module", "head"; the rest is summed.
        metric: folds an optimiser into the directions.
        cosine: add to scores by example the cosine with the gradient over the tensors the direction holds.
        transfer: allow a direction that starts from other weights.
        batch_size: rows per pass.

    Returns:
        `Scores` in nats per unit of direction, positive when a step on the row moves along it: keys, direction, score;
        by example alone also loss (nats), tokens, per_token and cosine.

    Raises:
        InputError: for a direction with unknown, misshapen or zero tensors or of another model, rows without answers, a
            loss that is not finite, dropout left on, quantised weights, and a batch that does not fit into memory.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> scores = interp.score(lineage.base, lineage.numbers[:8], interp.trait_gradient(lineage.base, "owl"))
        >>> scores.frame.columns.tolist()
        ['row', 'direction', 'score', 'loss', 'tokens', 'per_token']
    """
    keys = check_keys(by)
    directions = as_directions(direction, metric)
    check_cosine(cosine, by=keys, metric=metric, directions=directions)
    for each in directions:
        each.check(model, transfer=transfer)
    inputs = model.encode(rows)
    check_rows(inputs)
    network = prepared(model, directions)
    sites = find_sites(network, directions)
    plan = make_plan(sites, by=keys, length=float(inputs.lengths.float().mean()))
    work = Work(network, sites, directions, keys, plan, cosine)
    log.info("%s: %s", inputs.label, plan)
    asked = (inputs.fingerprint, [(each.label, each.key) for each in directions], keys, cosine)
    key = digest(FORMAT, model.fingerprint, _arithmetic(model), *asked)
    folders = _shards(work, inputs, key=key, weights=model.fingerprint, batch_size=batch_size)
    return _collected(model, inputs, work, folders)


def _arithmetic(model: LanguageModel) -> str:
    """The type of the weights and, off the processor, the kind of device, which rounds otherwise."""
    kind = model.device.type
    return str(model.dtype) if kind == "cpu" else f"{model.dtype} on {kind}"


def _shards(work: Work, inputs: Encoded, *, key: str, weights: str, batch_size: int) -> list[Path]:
    """The folder of every shard, computed by one rank or found; a rank tests itself before it computes (`try_once`)."""
    cache, ranks, tested = Cache.default(), Ranks.here(), False
    starts = range(0, len(inputs), SHARD)
    names = {start: digest(key, start, len(inputs[start : start + SHARD])) for start in starts}
    mine = ranks.mine(starts)
    total = sum(len(inputs[start : start + SHARD]) for start in mine)
    with ranks.together(), progress_bar(f"scoring {inputs.label}", total=total) as bar:
        for start in mine:
            rows = inputs[start : start + SHARD]
            if not tested and not cache.has("scores", names[start]):
                check_room(work, inputs, weights=weights, batch_size=batch_size)
                try_once(work, inputs, weights=weights, batch_size=batch_size)
                tested = True
            cache.get(
                "scores",
                names[start],
                lambda folder, rows=rows, start=start: work.write(folder, rows, start, batch_size),
            )
            bar.update(len(rows))
    return ranks.seen([cache.folder("scores", name) for name in names.values()])


def _collected(model: LanguageModel, inputs: Encoded, work: Work, folders: Sequence[Path]) -> Scores:
    from safetensors.torch import load_file

    parts = [load_file(folder / "rows.safetensors") for folder in folders]
    totals, loss, tokens = (
        torch.cat([part[name] for part in parts]) for name in ("totals", "loss", "tokens")
    )
    return Scores(
        label=f"{inputs.label} at {model.name}",
        directions=tuple(direction.label for direction in work.directions),
        by=work.by,
        plan=work.plan,
        totals=totals,
        loss=loss,
        tokens=tokens,
        files=tuple(folder / "scores.parquet" for folder in folders),
        inputs=inputs,
        tokenizer=model.tokenizer,
        weights=model.fingerprint,
    )
