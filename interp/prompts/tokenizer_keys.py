"""What a key over text has to hold beside the text: all by which a tokenizer makes tokens of it.

key = template (with its date), and digest(vocabulary, splits, added tokens, ends) unless the tokenizer is one of those
whose keys were made before there was that digest: what is kept under them stays valid.
"""

import json
from typing import Any
from weakref import WeakKeyDictionary

from interp.core.content import digest
from interp.prompts.templates import Tokenizer, template_key

UNNAMED = frozenset({"f62512790bb9d990", "92c048e86b20a02d"})
"""Digests of the toy's own tokenizer and of SmolLM2-135M-Instruct's, which keys leave out."""
NAMED = ("bos_token_id", "eos_token_id", "unk_token_id", "clean_up_tokenization_spaces")
PASSING = ("version", "truncation", "padding")  # what the last call asked for, or nothing of how text is read
_KNOWN: WeakKeyDictionary[Tokenizer, tuple[Any, str]] = WeakKeyDictionary()


def tokenizer_key(tokenizer: Tokenizer) -> Any:
    """What a key over text that this tokenizer reads has to hold: its template and how it makes tokens."""
    template, own = template_key(tokenizer), tokens_digest(tokenizer)
    return template if own in UNNAMED else [template, own]


def tokens_digest(tokenizer: Tokenizer) -> str:
    """16 hex characters of everything by which the tokenizer makes tokens of text and text of tokens."""
    core: Any = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:  # a slow tokenizer, which most verbs refuse
        return digest("tokenizer", type(tokenizer).__name__, repr(tokenizer))
    parts = (core.normalizer, core.pre_tokenizer, core.post_processor, core.decoder)
    state = (len(tokenizer), *map(repr, parts), *(getattr(tokenizer, name, None) for name in NAMED))
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        content = json.loads(core.to_str())
        kept = {name: value for name, value in content.items() if name not in PASSING}
        found = digest("tokenizer", json.dumps(kept, sort_keys=True), state[-len(NAMED) :])
        known = _KNOWN[tokenizer] = (state, found)
    return known[1]
