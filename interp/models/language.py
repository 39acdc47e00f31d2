"""Language models behind the seam: a plain Hugging Face module for speed, its TransformerBridge for every hook name.

Both share one storage. Parity is max |Δ log p| between the two over a short prompt with padding; it is checked and
logged at load, together with the unembedding's own logits = softcap(norm(resid) @ W_U + b_U).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.doors import door
from interp.core.errors import InputError
from interp.models.adapter_folders import adapter_tokenizer, find_model
from interp.models.agreement import check_in_memory, check_model, check_no_dropout, checked_backbone
from interp.models.answers import end_tokens
from interp.models.attaching import attach_adapters
from interp.models.backbone import Backbone
from interp.models.bridge import FAST, at_hook, bridge_logits, bridge_run
from interp.models.caches import as_kept, as_picked
from interp.models.elsewhere import OnBridge, check_generate
from interp.models.gguf_files import check_has_tokenizer, gguf_in, origin_of
from interp.models.given_tokenizers import given_tokenizer
from interp.models.head import last_logits
from interp.models.identity import hooked
from interp.models.kept import check_no_lineage
from interp.models.loading import (
    Loading,
    as_device,
    as_dtype,
    check_vocabulary,
    find_folder,
    load_tokenizer,
    load_weights,
)
from interp.models.once import plain_logits, plain_stream
from interp.models.seam import Unembedding, check_hooks
from interp.models.shown import model_html
from interp.models.stored import settle, stored_state
from interp.models.views import view
from interp.prompts.notes import hear
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, accept_unknown, check_known

if TYPE_CHECKING:
    from interp.models.merging import Merged
    from interp.models.seam import Model


@dataclass(frozen=True, eq=False)
class LanguageModel(OnBridge):
    """A causal language model behind the seam; `hf` is the plain Hugging Face module, never changed by an analysis.

    `origin` says what the weights were before they came in a plain type, where it matters; `merged_from` of which
    checkpoint and adapter they are the sum, where `merge_adapter` made them.
    """

    name: str
    backbone: Backbone = field(repr=False)
    tokenizer: Any = field(repr=False, default=None)
    start: Model | None = field(repr=False, default=None)
    origin: str = field(repr=False, default="")
    merged_from: Merged | None = field(repr=False, default=None)
    _edits: list[tuple[str, Callable[[Tensor], Tensor]]] = field(repr=False, init=False, default_factory=list)
    _repr_html_ = model_html

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.config.model_type}, {self.n_layers} layers of {self.d_model})"

    @property
    def hf(self) -> Any:
        """The Hugging Face module; copy it (copy.deepcopy) to train, it is shared with other members."""
        return self.backbone.hf

    @property
    def peft(self) -> Any:
        """The PeftModel around `hf` when adapters are live on it, else None."""
        return self.backbone.peft

    @property
    def config(self) -> Any:
        """The Hugging Face configuration of the text model."""
        return self.backbone.config

    @property
    def fingerprint(self) -> str:
        """16 hex characters that name the weights, and hooks of your own where there are such on `hf`."""
        return hooked(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """What every result of this model has to say of it: its origin and that of its start."""
        above = () if self.start is None else getattr(self.start, "notes", ())
        return tuple(dict.fromkeys(note for note in (self.origin, *above) if note))

    @property
    def n_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def d_model(self) -> int:
        return self.config.hidden_size

    @property
    def source(self) -> str:
        """The folder or hub name the network was loaded from; "" for one made in memory."""
        return str(getattr(self.hf.config, "_name_or_path", "") or "")

    @property
    def context(self) -> int | None:
        """Longest row in tokens."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight."""
        return self.backbone.shapes

    @property
    def ties(self) -> dict[str, str]:
        """Further names of weights that stand in several places, such as a tied output matrix, and their first name."""
        return self.backbone.ties

    @property
    def adapter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the live adapters by its name in `hf`, such as LoRA's factors."""
        return self.backbone.adapter_shapes

    @property
    def bridge(self) -> Any:
        """The TransformerBridge over the same weights, for tools of TransformerLens: give it token ids, not text."""
        return self.backbone.bridge

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Every TransformerLens hook name that holds a tensor in a forward pass."""
        return self.backbone.hook_names

    @door
    def encode(self, prompts: Prompts | Encoded) -> Encoded:
        """The rows as this model's tokens, at most `context` long; tokens are left as they are.

        Raises InputError for a model without a tokenizer, for rows of which more than a fifth of the tokens are unknown
        (`accepting_unknown` takes them all the same), and where `Prompts.encode` does.
        """
        hear(self.notes)
        if isinstance(prompts, Encoded):
            return prompts
        if self.tokenizer is None:
            raise InputError(f"{self.name} has no tokenizer; load it with tokenizer=")
        return check_known(prompts.encode(self.tokenizer, context=self.context), self.tokenizer)

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer: see `end_tokens`."""
        return end_tokens(self)

    def accepting_unknown(self) -> LanguageModel:
        """The same model, which also reads rows of which more than a fifth of the tokens are unknown to it."""
        return replace(self, tokenizer=accept_unknown(self.tokenizer))

    def batches(self, inputs: Prompts | Encoded, size: int) -> Iterator[Encoded]:
        """Consecutive rows, `size` at a time, order kept."""
        return self.encode(inputs).batches(size)

    @door
    @torch.no_grad()
    def logits(self, batch: Prompts | Encoded) -> Float[Tensor, "example pos vocab"]:
        """Next-token logits of rows, on the model's device; those at padding mean nothing."""
        if self._edits:
            return bridge_logits(self.backbone.bridge, self._edits, *self._inputs(batch))
        return plain_logits(self.backbone, *self._inputs(batch))

    @door
    @torch.no_grad()
    def run(
        self, batch: Prompts | Encoded, *, hooks: Sequence[str]
    ) -> dict[str, Float[Tensor, "example ..."]]:
        """Activations [example pos ...], on the model's device, from a pass that ends at the deepest one.

        Attention patterns are [example head query key]. The residual stream alone is read off the plain module;
        anything else goes through the bridge, as does everything while `hooks` is open. Raises InputError with the
        nearest names for one that does not exist.
        """
        self._check(hooks)
        ids, mask = self._inputs(batch)
        if self._edits or not all(FAST.fullmatch(name) for name in hooks):
            found = bridge_run(self.backbone.bridge, self._edits, hooks, ids, mask)
        else:
            found = plain_stream(self.backbone, hooks, ids, mask)
        return {name: found[name].expand(len(ids), *found[name].shape[1:]) for name in hooks}

    @contextmanager
    def hooks(self, fwd: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """While open, `logits` and `run` see each named activation replaced by what its function returns."""
        self._check(tuple(fwd))
        before = len(self._edits)
        self._edits.extend(fwd.items())
        try:
            yield
        finally:
            del self._edits[before:]

    def unembedding(self) -> Unembedding:
        """The final norm, output matrix and softcap; its `logits` of the last residual stream are the model's."""
        return self.backbone.unembedding()

    @door
    def attention_output(
        self, layer: int
    ) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "d_model"] | None]:
        """W_O per head and b_O, or None: attn.hook_out = Σ_head hook_z @ W_O + b_O. InputError for a missing layer."""
        if not 0 <= layer < self.n_layers:
            raise InputError(f"{self.name} has no layer {layer}; it has layers 0 to {self.n_layers - 1}")
        attention = self.backbone.bridge.blocks[layer].attn
        return attention.W_O.detach(), None if attention.b_O is None else attention.b_O.detach()

    def parameters(self) -> dict[str, Tensor]:
        """Effective weights by Hugging Face name, adapters merged in; tied weights once, under their first name."""
        return self.backbone.weights()

    def network(
        self,
        *,
        dtype: torch.dtype | None = None,
        merge: bool = True,
        train: bool = False,
        copied: bool = False,
    ) -> Any:
        """The plain Hugging Face network that computes these logits, in evaluation mode, under modules of its own.

        `merge` has adapters in the weights, else they are live. They ask for a gradient if `train`. They lie in the
        model's own storage, to be replaced but not written into, unless `copied`; `dtype` None keeps theirs.
        """
        own: Any = view(self.backbone.flat if merge else self.hf)
        own = copy.deepcopy(own) if copied else own
        own = own if dtype is None else own.to(dtype)
        return own.eval().requires_grad_(train)

    check_still = check_no_dropout

    def redrawn(self, *, seed: int, name: str, dtype: torch.dtype | None = None) -> LanguageModel:
        """The same architecture with weights drawn anew as it initialises them, in `dtype` or the weights' own."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = type(self.hf)._from_config(copy.deepcopy(self.hf.config), dtype=dtype or self.dtype)
        network = network.to(dtype=self.dtype, device=self.device).eval().requires_grad_(False)
        return load_model(network, tokenizer=self.tokenizer, name=name, check=False)

    @contextmanager
    def editing(self, hook: str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While open, the plain network, which samples, has what `edit` makes of the residual stream at `hook`."""
        handle = at_hook(self.hf, hook, edit)
        try:
            yield
        finally:
            handle.remove()

    def next_logits(
        self, ids: Int[Tensor, "row pos"], cache: Any = None
    ) -> tuple[Float[Tensor, "row vocab"], Any]:
        """Logits after the last token of every row, in fp32, and the cache grown by `ids`, whose rows can be picked.

        Raises InputError for an architecture without such a cache.
        """
        logits, cache = last_logits(self.hf, ids.to(self.device), as_kept(cache), dtype=torch.float32)
        if cache is None:
            raise InputError(
                f"{type(self.hf).__name__} keeps no key-value cache, which sampling reads; use a transformer"
            )
        return logits, as_picked(cache)

    def generate(self, ids: Any, mask: Any = None, *, config: Any = None, **others: Any) -> Tensor:
        """What transformers' `generate` writes behind `ids`, [row new], under the settings of `config` alone.

        The checkpoint's generation_config, which fills in what a call leaves unsaid, says nothing meanwhile. InputError
        for text and others than ids, their mask and a config.
        """
        check_generate(ids, mask, config, others)
        before, self.hf.generation_config = self.hf.generation_config, type(config)()
        try:
            given = {"input_ids": ids.to(self.device), "attention_mask": mask.long().to(self.device)}
            return self.hf.generate(**given, generation_config=config)[:, ids.shape[1] :]
        finally:
            self.hf.generation_config = before

    @door
    def with_adapter(
        self, *folders: str | Path, name: str | None = None, check: bool = True
    ) -> LanguageModel:
        """This model with PEFT adapters live on it, over the same storage; its `start` is this model."""
        paths = [find_folder(folder) for folder in folders]
        state = stored_state(*paths, dtype=self.dtype)
        tokenizer = adapter_tokenizer(paths[-1], self.tokenizer)
        grown = attach_adapters(self.backbone, paths, state=state)
        own = LanguageModel(name or paths[-1].name, grown, tokenizer, start=self)
        if tokenizer is not None:
            check_vocabulary(tokenizer, own.hf, own.name)
        return check_model(own, state=state) if check else own

    def _inputs(self, batch: Prompts | Encoded) -> tuple[Tensor, Tensor]:
        batch = batch if isinstance(batch, Encoded) else self.encode(batch)
        return batch.ids.to(self.device), batch.mask.to(self.device).long()

    def _check(self, names: Sequence[str]) -> None:
        """As check_hooks, without booting the bridge for the residual stream."""
        fast = [FAST.fullmatch(name) for name in names]
        if not all(match and int(match.group(1)) < self.n_layers for match in fast):
            check_hooks(self, names)


@door
def load_model(
    source: str | Path | torch.nn.Module,
    *,
    tokenizer: Any = None,
    adapter: str | Path | Sequence[str | Path] | None = None,
    name: str | None = None,
    check: bool = True,
    **loading: Unpack[Loading],
) -> LanguageModel:
    """Load a language model from a folder, a hub name, a GGUF file, an adapter folder or a module in memory.

    Args:
        source: where it is; an adapter folder names its base, and a GGUF file, or its folder, is dequantised into the
            cache. A module (PeftModel included) is viewed with its adapters as they are set now and is never
            changed; its weights are what they are at each call, but load it again after an edit through `.data`.
        tokenizer: another one than the source's own, loaded or by its folder or hub name.
        adapter: one or more PEFT adapters, their effects added.
        name: how results call it; that of the folder by default.
        check: compare the hooked model with plain Hugging Face (once for unchanged files) and say it in one line.
        **loading: `dtype` (None keeps the checkpoint's), `device` ("auto" takes a GPU where there is one), `revision`
            (a branch, tag or commit on the hub; of the base where an adapter on disk is given), `allow_unknown` (read
            rows of which over a fifth of the tokens are unknown, too).

    Returns:
        `LanguageModel`; the model without the adapters is its `start`.

    Raises:
        InputError: for anything that is not a whole model.

    Example:
        >>> import interp
        >>> interp.load_model("Qwen/Qwen3-0.6B", dtype="bfloat16")  # doctest: +SKIP
    """
    folders = [adapter] if isinstance(adapter, (str, Path)) else list(adapter or ())
    dtype, device, state = as_dtype(loading.get("dtype")), loading.get("device", "auto"), None
    tokenizer = given_tokenizer(tokenizer)
    revision = loading.get("revision")
    if isinstance(source, torch.nn.Module):
        check_in_memory(source, revision=revision)
        label = name or type(source).__name__
        model = LanguageModel(label, checked_backbone(source, label, dtype=dtype, device=device), tokenizer)
    else:
        check_no_lineage(source)
        given, (folder, source, adapted) = source, find_model(source, revision=revision)
        if adapted is not None:
            folders, name = [adapted, *folders], name or Path(given).name
        state = stored_state(folder, dtype=dtype)
        backbone = Backbone(load_weights(folder, dtype=dtype, device=as_device(device)))
        settle(backbone, state, str(folder), fingerprint=check)
        model = _from_folder(folder, source, backbone, tokenizer, name)
    if model.tokenizer is not None:
        check_vocabulary(model.tokenizer, model.hf, model.name)
        model = model.accepting_unknown() if loading.get("allow_unknown") else model
    if model.peft is not None:
        model = replace(
            model, start=replace(model, name=f"base of {model.name}", backbone=model.backbone.plain)
        )
    if folders:
        return model.with_adapter(*folders, name=name, check=check)
    return check_model(model, state=state) if check else model


def _from_folder(
    folder: Path, source: str | Path, backbone: Backbone, tokenizer: Any, name: str | None
) -> LanguageModel:
    """The loaded network with its tokenizer; one from a GGUF file is called by that file, and says what it was."""
    own, origin = tokenizer if tokenizer is not None else load_tokenizer(folder), origin_of(folder)
    if origin and (file := gguf_in(Path(source).expanduser())) is not None:
        backbone.hf.config._name_or_path = backbone.hf.name_or_path = str(file)  # peft reads the second
    if own is None:
        check_has_tokenizer(folder, str(source))
    return LanguageModel(name or Path(source).name, backbone, own, origin=origin)
