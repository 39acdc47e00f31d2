"""Facts about the code and the machine a result came from: versions, commit, cores, device, cache, browser.

Nothing here changes anything, and nothing imports a heavy package before it is asked to. The commit is that of
the checkout the package itself is tracked in; an installed copy has none.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

DISTRIBUTIONS = (
    "subliminal-interp",
    "torch",
    "transformers",
    "transformer-lens",
    "sae-lens",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "statsmodels",
    "pandas",
    "pyarrow",
    "plotly",
)
DATE = "2025-01-01"  # part of the tokens under templates that write a date: never changed
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def versions() -> dict[str, str]:
    """Installed version of Python and of every distribution whose behaviour can change a number.

    Example:
        >>> list(versions())[:3]
        ['python', 'subliminal-interp', 'torch']
    """
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit of the checkout tracking `folder` (default: this package) and whether it is dirty; else None."""
    folder = Path(__file__).parent if folder is None else folder
    if not _git(folder, "ls-files", "--", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def origin() -> dict[str, Any]:
    """Commit and day that a result is made at, and whether the package's files differ from that commit.

    Outside a checkout the commit is "unknown", and `dirty` None.
    """
    package = Path(__file__).parent.parent
    state = git_state(package)
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    if state is None:
        return {"commit": "unknown", "dirty": None, "date": day}
    dirty = bool(_git(package, "status", "--porcelain", "--", "."))
    return {"commit": state["commit"], "dirty": dirty, "date": day}


def cache_folder() -> Path:
    """Where finished, content-keyed results are kept: $INTERP_CACHE, else ~/.cache/interp."""
    return Path(os.environ.get("INTERP_CACHE") or Path.home() / ".cache" / "interp").expanduser()


def browser() -> str | None:
    """Path of a browser that can draw figures as PNG, or None; $BROWSER_PATH, when set, is the only candidate."""
    chosen = os.environ.get("BROWSER_PATH")
    return next((path for path in map(shutil.which, [chosen] if chosen else BROWSERS) if path), None)


def template_date() -> str:
    """The date that chat templates see, whatever the day: $INTERP_TEMPLATE_DATE, else one that never changes."""
    return os.environ.get("INTERP_TEMPLATE_DATE") or DATE


def offline() -> bool:
    """Whether the model hub is switched off by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    flags = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return any(flag.strip().upper() in {"1", "ON", "YES", "TRUE"} for flag in flags)


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def doctor() -> dict[str, Any]:
    """Everything worth knowing before a run goes wrong; sizes in bytes.

    Example:
        >>> list(doctor())
        ['versions', 'git', 'platform', 'cores', 'threads', 'device', 'offline', 'cache', 'browser']
    """
    import torch

    folder = cache_folder()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {
        "versions": versions(),
        "git": git_state(),
        "platform": platform.platform(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": _device(torch),
        "offline": offline(),
        "cache": {"folder": str(folder), "files": len(files), "bytes": sum(f.stat().st_size for f in files)},
        "browser": browser(),
    }


def _device(torch: Any) -> str:
    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name(0)})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
