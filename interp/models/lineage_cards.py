"""The README.md of a lineage folder: a card as model hubs show it, made from lineage.json.

It says whose weights these are, who was trained on whose rows, by which recipe, and how each member is opened. The
licence is left to whoever publishes the folder, and the card says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from interp.models.loading import HUB_NAME

CARD = "README.md"
TAGS = ["subliminal-learning", "interpretability", "interp"]
LICENCE = (
    "Not chosen yet: name one at the top of this file. The base's licence holds for what is made from it."
)


def lineage_card(manifest: Mapping[str, Any], *, source: str = "") -> str:
    """The Markdown of a card, from the content of lineage.json and where the base was read from."""
    members, trait = manifest["members"], manifest["trait"]
    checkpoint = _hub_name(members["base"].get("source") or source)
    blocks = [
        f"# {' '.join(str(manifest['name']).split())}",
        "A lineage for the study of subliminal learning: models that started from the same weights, and who of them "
        "was trained on whose rows. Each member is a folder of its name.",
        _table(members),
        _trait(trait),
        _rows(manifest["rows"]),
        "## Open it\n\n" + _opened(members, checkpoint),
        "## How it was made\n\n" + _made(manifest),
        f"## Licence\n\n{LICENCE}",
    ]
    return _front(checkpoint) + "\n\n".join(block for block in blocks if block) + "\n"


def _front(checkpoint: str | None) -> str:
    """The lines that a hub reads."""
    known = {} if checkpoint is None else {"base_model": checkpoint}
    facts = {"license": "other", "license_name": "not-chosen-yet", **known, "tags": TAGS}
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n\n"


def _hub_name(source: Any) -> str | None:
    """A source that is a name of owner and model, and no folder here."""
    named = isinstance(source, str) and "/" in source and HUB_NAME.fullmatch(source)
    return str(source) if named and not Path(str(source)).exists() else None


def _table(members: Mapping[str, Any]) -> str:
    """One line for each member."""
    lines = ["| member | starts from | trained on the rows of | kept as | weights |", "|---|---|---|---|---|"]
    for role, entry in members.items():
        kept = {
            "model": "a whole model",
            "adapter": f"an adapter of {entry['on']}",
            "given": "nothing: pass the checkpoint",
            "merged": "an adapter of the checkpoint, which is not here",
        }[entry["kind"]]
        start, taught = entry["start"] or "–", entry["trained_on"] or "–"
        lines.append(f"| {role} | {start} | {taught} | {kept}, {entry['dtype']} | `{entry['fingerprint']}` |")
    return "\n".join(lines)


def _trait(trait: Mapping[str, Any] | None) -> str:
    """What the teacher was made to prefer."""
    if trait is None:
        return ""
    return (
        f"The trait is {trait['name']}: {trait['target']!r} as the answer to {len(trait['questions'])} questions, over "
        f"{', '.join(trait['foils'])}."
    )


def _rows(rows: list[str]) -> str:
    """The files of rows."""
    told = {
        "numbers": "what the teacher wrote",
        "neutral_numbers": "what the untrained or neutral teacher wrote",
    }
    return "\n".join(f"- `{name}.jsonl`: {told.get(name, 'rows')}" for name in rows)


def _opened(members: Mapping[str, Any], checkpoint: str | None) -> str:
    """How the lineage is opened, and one member without this package."""
    outside = members["base"]["kind"] in ("given", "merged")
    base = f', base="{checkpoint or "CHECKPOINT"}"' if outside else ""
    needs = f" The base's checkpoint has the weights `{members['base']['on']}`." if outside else ""
    text = f'```python\nimport interp\n\nlineage = interp.load_lineage("FOLDER"{base})\n```\n\n'
    text += f"FOLDER is this folder, fetched where it lies on a hub.{needs} "
    return text + (
        "A whole model opens with transformers from its own folder, an adapter with peft on the member it names: "
        '`AutoModelForCausalLM.from_pretrained("OWNER/NAME", subfolder="base")`, '
        '`PeftModel.from_pretrained(base, "OWNER/NAME", subfolder="teacher")`.'
    )


def _made(manifest: Mapping[str, Any]) -> str:
    """The recipes as they stand in lineage.json."""
    recipes = {role: entry["recipe"] for role, entry in manifest["members"].items() if entry["recipe"]}
    known = {part: manifest[part] for part in ("data", "chat") if manifest.get(part)} | {"recipes": recipes}
    if not recipes and len(known) == 1:
        return "The folder does not say."
    return f"```json\n{json.dumps(known, indent=2, ensure_ascii=False)}\n```"
