"""The installed package beside its own dependencies alone: every module, the commands, a small lineage."""

import importlib.util
import pkgutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import interp

EXTRAS = ("pytest", "jupytext", "mkdocs", "gguf", "ruff", "playwright")


def main() -> None:
    """Fails where something is missing from the wheel or needs an extra."""
    home = Path(interp.__file__).parent
    assert "site-packages" in home.parts, f"{home} is the checkout, not the wheel"
    assert not any(importlib.util.find_spec(name) for name in EXTRAS), "an extra is installed"
    modules = [each.name for each in pkgutil.walk_packages(interp.__path__, "interp.")]
    for name in modules:
        importlib.import_module(name)
    for command in (["--version"], ["traits"], ["doctor"]):
        told = subprocess.run(
            [Path(sys.executable).parent / "interp", *command], capture_output=True, text=True
        )
        assert told.returncode == 0, told.stderr
        assert command != ["--version"] or version("subliminal-interp") in told.stdout, told.stdout
    with tempfile.TemporaryDirectory() as folder:
        grown = interp.organisms.grow("owl", seed=0, recipe=interp.organisms.library.QUICK_TOY)
        lineage = interp.load_lineage(grown.save(Path(folder) / "lineage"))
        moved = interp.shift(lineage.student, interp.number_prompts(8, seed=1, count=3))
        assert moved.figure().data
        assert (
            interp.attribute(moved, interp.logit_direction(lineage.base, lineage.trait))
            .frame["residual"]
            .abs()
            .max()
            < 1e-3
        )
    sys.stdout.write(f"{len(modules)} modules and a lineage work from the wheel\n")


if __name__ == "__main__":
    main()
