"""What a model or a lineage says when it is asked for what stands elsewhere: one sentence that names the place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.core.doors.nouns import shown
from interp.core.errors import InputError

ON_BRIDGE = {
    "QK", "OV", "W_E", "W_K", "W_O", "W_Q", "W_U", "W_V", "W_in", "W_out", "accumulated_bias", "add_hook",
    "add_perma_hook", "all_head_labels", "b_U", "blocks", "cfg", "embed", "get_token_position", "hook_dict",
    "hook_points", "ln_final", "original_model", "reset_hooks", "run_with_cache", "run_with_hooks",
    "to_single_str_token", "to_single_token", "to_str_tokens", "to_string", "to_tokens",
    "tokens_to_residual_directions", "unembed",
}  # fmt: skip
"""What users of TransformerLens ask a model for, and its bridge has."""
WRITES = (
    "encode text by inputs = model.encode([text]) and pass inputs.ids, inputs.mask and "
    "config=transformers.GenerationConfig(max_new_tokens=8), or have answers written by interp.training.write_answers"
)


class Elsewhere:
    """What names, in an AttributeError, the place of what it lacks: `_elsewhere` is told of the name."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property that failed: its own error is told
                return object.__getattribute__(self, name)
            told = "" if name.startswith("_") else self._elsewhere(name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{told}")


class OnBridge(Elsewhere):
    """A model, which has what TransformerLens does with one on its bridge."""

    def _elsewhere(self, name: str) -> str:
        if name not in ON_BRIDGE:
            return ""
        return (
            f"; model.bridge.{name} is that of TransformerLens, over the same weights: give the bridge token ids, such "
            "as model.encode([text]).ids"
        )


class InMembers(Elsewhere):
    """A lineage, whose models are `members` by their roles."""

    def _elsewhere(self, name: str) -> str:
        members = list(vars(self).get("members", ()))
        if name in members:
            return f'; write lineage["{name}"], the members being {", ".join(members)}'
        return (
            f'; its members are {", ".join(members)}, written as lineage["{members[-1]}"]' if members else ""
        )


def check_generate(ids: Any, mask: Any, config: Any, others: dict[str, Any]) -> None:
    """InputError unless `generate` is given ids, their mask and a config, and nothing else."""
    wrong = {"ids": ids, "mask": mask}
    came = [f"{shown(value)} as {name}" for name, value in wrong.items() if not isinstance(value, Tensor)]
    came += [] if config is not None else ["no config"]
    came += [f"{name}={value!r}" for name, value in others.items()]
    if came:
        raise InputError(f"generate takes token ids, their mask and a config, and {came[0]} came; {WRITES}")
