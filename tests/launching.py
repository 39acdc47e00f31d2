"""Two real processes under torchrun, with gloo over the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def torchrun(script: str, folder: Path, *, ranks: int = 2) -> None:
    """Run the source text `script` in `ranks` processes; its first argument is `folder`, its cache folder/cache."""
    path = folder / "script.py"
    path.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "INTERP_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [*command, str(path), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=settings,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
