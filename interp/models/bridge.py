"""Forward passes that read or edit activations: through a TransformerBridge, or by torch hooks where those suffice.

resid_pre(i) enters and resid_post(i) leaves decoder layer i, so the residual stream needs no bridge. A pass that raises
Stop ends there: nothing behind the deepest activation asked for is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import InputError, nearest
from interp.models.isolation import isolated

FAST = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
BLOCK = re.compile(r"blocks\.(\d+)\.")
EMBEDDING = ("hook_embed", "hook_pos_embed", "embed.", "pos_embed.")
LEVEL = 1_000_000  # marks the hooks of one pass for removal, far from the levels the bridge counts up itself
Edits = Sequence[tuple[str, Callable[[Tensor], Tensor]]]


class Stop(Exception):
    """Ends a forward pass once the deepest activation asked for is held."""


@isolated()
def boot(module: Any) -> Any:
    """A bridge over a plain Hugging Face module, which it rewrites; in evaluation mode, without a tokenizer.

    Raises InputError for an architecture that TransformerLens cannot hook, however it says so.
    """
    from transformer_lens.model_bridge import TransformerBridge

    _check_width(module)
    module.config.architectures = [type(module).__name__]  # what decides; one made in code lacks it
    with hooking(type(module).__name__):
        bridge = TransformerBridge.boot_transformers(
            module.config.model_type, hf_model=module, tokenizer=_blank_tokenizer(), device=str(module.device)
        )
    return bridge.eval()


def _check_width(module: Any) -> None:
    """InputError for an embedding of another width than the stream, which is projected in between (OPT-350m)."""
    config = module.config
    width = getattr(config, "word_embed_proj_dim", None)
    if width is not None and width != config.hidden_size:
        raise InputError(
            f"TransformerLens cannot hook {type(module).__name__} with embeddings of word_embed_proj_dim {width} in a "
            f"stream of hidden_size {config.hidden_size}; use a checkpoint in which the two are equal"
        )


@contextmanager
def hooking(name: str) -> Iterator[None]:
    """Turns whatever TransformerLens raises about an architecture into one InputError; too little memory stays that."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"TransformerLens cannot hook {name} ({reason}); use an architecture it supports"
        ) from error


def _blank_tokenizer() -> Any:
    """Booting without a tokenizer asks the hub for one, and a given one is rewritten: this one may be."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"-": 0}, unk_token="-"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="-", pad_token="-")


def firing_hooks(bridge: Any) -> tuple[str, ...]:
    """The hook names that hold real numbers in a forward pass, in its order; gated ones exist and never fire."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=bridge.cfg.device)
    with torch.no_grad(), hooking(bridge.cfg.architecture):
        _, cache = bridge.run_with_cache(ids, attention_mask=torch.ones_like(ids), return_cache_object=False)
    return tuple(
        name for name, value in cache.items() if isinstance(value, Tensor) and value.is_floating_point()
    )


@torch.no_grad()
def odd_shapes(bridge: Any, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The hooks whose values are not [example, position, ...], with their shape for two rows of three tokens.

    Rows of two lengths are read: an axis of heads that is as long as one of them is not as long as the other.
    """
    found: dict[str, tuple[int, ...]] = {}
    for length in (5, 3):
        ids = torch.zeros(2, length, dtype=torch.long, device=bridge.cfg.device)
        with hooking(bridge.cfg.architecture):
            values = bridge_run(bridge, (), names, ids, torch.ones_like(ids))
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        placed = {name for name, (rows, *rest) in shapes.items() if rows in (1, 2) and rest[:1] == [length]}
        found |= {name: shape for name, shape in shapes.items() if name not in placed or name in found}
    return found


def bridge_logits(bridge: Any, edits: Edits, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of a forward pass through the bridge with the edits in place."""
    with _listening(bridge, _as_hooks(edits)):
        return bridge(ids, attention_mask=mask)


def bridge_run(
    bridge: Any, edits: Edits, hooks: Sequence[str], ids: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """The named activations, edits in place; the pass ends where the block after the deepest one would begin."""
    found: dict[str, Tensor] = {}
    listeners = [(name, _keep(name, found)) for name in hooks]
    patterns = any(name.endswith(("hook_pattern", "hook_attn_scores")) for name in hooks)
    extra = {"output_attentions": True} if patterns else {}
    with _listening(bridge, [*_as_hooks(edits), *listeners, *_stops(bridge, hooks)]):
        try:
            bridge(ids, attention_mask=mask, return_type=None, **extra)
        except Stop:
            return found
    return found


@contextmanager
def _listening(bridge: Any, hooks: Sequence[tuple[str, Any]]) -> Iterator[None]:
    """The functions on their hook points, in order; the bridge's own contexts look all names up for each hook."""
    points = bridge.hook_dict if hooks else {}
    try:
        for name, function in hooks:
            points[name].add_hook(function, level=LEVEL)
        yield
    finally:
        for name, _ in hooks:
            points[name].remove_hooks(level=LEVEL)


def _as_hooks(edits: Edits) -> list[tuple[str, Any]]:
    return [(name, lambda value, hook, edit=edit: edit(value)) for name, edit in edits]


def _keep(name: str, found: dict[str, Tensor]) -> Any:
    def keep(value: Any, hook: Any) -> None:
        found[name] = (value[0] if isinstance(value, tuple) else value).detach()

    return keep


def _stops(bridge: Any, hooks: Sequence[str]) -> list[tuple[str, Any]]:
    """A hook that ends the pass, when everything asked for lies inside or before the blocks."""
    depths = [int(match.group(1)) if (match := BLOCK.match(name)) else -1 for name in hooks]
    outside = [name for name, depth in zip(hooks, depths, strict=True) if depth < 0]
    if not all(name.startswith(EMBEDDING) for name in outside):
        return []
    following = max(depths, default=-1) + 1

    def stop(value: Any, hook: Any) -> None:
        raise Stop

    return [(f"blocks.{following}.hook_in" if following < len(bridge.blocks) else "ln_final.hook_in", stop)]


def residual_run(
    module: Any, layers: torch.nn.ModuleList, hooks: Sequence[str], ids: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """The residual stream before and after decoder layers of the plain module."""
    sites = {name: (int(match.group(1)), match.group(2)) for name in hooks if (match := FAST.fullmatch(name))}
    last = max(sites.values(), key=lambda site: (site[0], site[1] == "post"))
    found: dict[str, Tensor] = {}
    handles = [
        _listen(layers[layer], end, name, found, stop=(layer, end) == last)
        for name, (layer, end) in sites.items()
    ]
    try:
        module.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    except Stop:
        return found
    finally:
        for handle in handles:
            handle.remove()
    return found


def _listen(layer: Any, end: str, name: str, found: dict[str, Tensor], *, stop: bool) -> Any:
    """Keep what enters (pre) or leaves (post) a decoder layer under `name`."""

    def keep(h: Tensor) -> None:
        found[name] = h
        if stop:
            raise Stop

    return at_layer(layer, end, keep)


def decoder_layers(network: Any) -> torch.nn.ModuleList:
    """The decoder layers in order; InputError for a network without such a list."""
    count = network.config.get_text_config().num_hidden_layers
    for module in network.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise InputError(
        f"{type(network).__name__} has no list of {count} decoder layers; pass a decoder-only causal language model"
    )


def at_hook(network: Any, hook: str, edit: Callable[[Tensor], Tensor | None]) -> Any:
    """Put what `edit` makes of the residual stream in its place at a hook of the plain network, as `at_layer` does."""
    layers = decoder_layers(network)
    layer, end = residual_site(hook, len(layers))
    return at_layer(layers[layer], end, edit)


def residual_site(hook: str, n_layers: int) -> tuple[int, str]:
    """Layer of a hook on the residual stream, and whether it is what enters it ("pre") or leaves it ("post").

    Raises InputError with the nearest names for any other hook.
    """
    match = FAST.fullmatch(hook)
    if match is None or int(match[1]) >= n_layers:
        known = [f"blocks.{layer}.hook_resid_{end}" for layer in range(n_layers) for end in ("pre", "post")]
        raise InputError(f"hook {nearest(hook, known)}; what is added here is added to the residual stream")
    return int(match[1]), match[2]


def at_layer(layer: Any, end: str, edit: Callable[[Tensor], Tensor | None]) -> Any:
    """Put what `edit` makes of the residual stream in its place where it enters ("pre") or leaves ("post") a layer.

    None leaves it as it is. The handle returned removes the edit.
    """

    def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        h = edit(args[0] if args else kwargs["hidden_states"])
        if h is None:
            return None
        return ((h, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": h})

    def leave(_: Any, args: tuple[Any, ...], output: Any) -> Any:
        whole = isinstance(output, tuple)
        h = edit(output[0] if whole else output)
        return h if h is None or not whole else (h, *output[1:])

    if end == "pre":
        return layer.register_forward_pre_hook(enter, with_kwargs=True)
    return layer.register_forward_hook(leave)
