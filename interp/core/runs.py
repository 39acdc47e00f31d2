"""The record of a run: atomic files, a content-keyed cache, and the run folder that can be resumed.

key = blake2b(fingerprints, inputs, arguments, format version); a stage or cache entry with the same key has the
same bytes, so it is never computed twice. Timestamps and durations live in run.json only; every other file is a
function of its key.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.core.content import digest, json_text, jsonable
from interp.core.doors import door
from interp.core.errors import InputError as InputError, nearest as nearest
from interp.core.pages import SCRIPT, figure_page, page_drawing, page_fragment, pictures
from interp.core.progress import working
from interp.core.provenance import browser, cache_folder, git_state, template_date, versions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

log = logging.getLogger(__name__)

FORMAT = 1  # of run folders and cache entries; raised when old ones can no longer be read
LONG = 2.0  # seconds from which on a stage is worth a line


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """A temporary sibling folder to fill, renamed to `path` when the block ends and removed when it fails.

    An existing `path` is swapped out only once the new folder is complete; with replace=False it is kept and the
    new one dropped. Raises InputError when the disk is full.
    """
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with _writing(path):
            fresh.chmod(0o755)
            yield fresh
            move_into_place(fresh, path, replace=replace)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def move_into_place(fresh: Path, path: Path, *, replace: bool) -> None:
    """Rename a folder to `path`; where another is there it is swapped out, or with replace=False kept."""
    try:
        os.rename(fresh, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if replace:
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            os.rename(path, old / path.name)
            os.rename(fresh, path)
            shutil.rmtree(old, ignore_errors=True)


def write_atomic(path: str | Path, text: str | bytes) -> None:
    """Write the whole file or leave the old one untouched; raises InputError when the disk is full.

    >>> write_atomic("notes.txt", "eight seeds")
    >>> Path("notes.txt").read_text()
    'eight seeds'
    """
    with atomic_file(path) as fresh, open(fresh, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary sibling file to write, renamed to `path` when the block ends and removed when it fails."""
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            os.chmod(name, 0o644)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the writers' different words for a full disk or a forbidden place into one InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise InputError(
                f"cannot write {path}: the disk is full; free space or choose another folder"
            ) from error
        if isinstance(error, PermissionError) and str(path.parent) in str(error.filename):
            raise InputError(
                f"cannot write {path}: permission denied; choose a folder you may write to"
            ) from error
        raise


@dataclasses.dataclass(frozen=True)
class Cache:
    """Finished folders found by kind and content key, shared by all runs of a user."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """The cache at $INTERP_CACHE, else ~/.cache/interp."""
        return cls(cache_folder())

    def folder(self, kind: str, key: str) -> Path:
        """Where the entry lives or would live."""
        return Path(self.root) / f"v{FORMAT}" / _plain(kind) / _plain(key)

    def has(self, kind: str, key: str) -> bool:
        """Whether the entry is finished."""
        return self.folder(kind, key).is_dir()

    def get(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The finished entry; when absent, `build` fills a temporary folder that becomes it."""
        folder = self.folder(kind, key)
        if folder.is_dir():
            log.debug("%s %s: cached", kind, key)
            return folder
        with atomic_folder(folder, replace=False) as fresh:
            build(fresh)
        return folder


@door
class Run:
    """A run folder: run.json, verdicts.json, summary.json, tables/, activations/, figures/, report.html."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record
        self._artefacts: list[str] = []

    @classmethod
    @door
    def open(
        cls, folder: str | Path, *, command: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> Run:
        """Create the run folder, or resume it when it holds the same command and configuration.

        Raises InputError when the folder holds another configuration (the first differing argument is named)
        or anything that is not a run.
        """
        folder = Path(folder)
        record = _new_record(command, arguments, defaults)
        if (folder / "run.json").is_file():
            run = cls.load(folder)
            _check_same(folder, run.record, record)
            log.info("%s: resuming", folder)
            return run
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder} exists and is not a run; choose a new or an empty folder for the output"
            )
        run = cls(folder, record)
        run._write()
        return run

    @classmethod
    @door
    def load(cls, folder: str | Path) -> Run:
        """An existing run, for reading; raises InputError when `folder` is not one."""
        folder = Path(folder)
        try:
            record = json.loads((folder / "run.json").read_text())
        except OSError:
            raise InputError(
                f"{folder} is not a run: it has no run.json; pass a folder a command wrote"
            ) from None
        except ValueError:
            raise InputError(
                f"{folder / 'run.json'} is not valid JSON; run the command again elsewhere"
            ) from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise InputError(
                f"{folder / 'run.json'} is not a run of format {FORMAT}; run the command again elsewhere"
            )
        return cls(folder, record)

    def __repr__(self) -> str:
        states = [stage["status"] for stage in self.record["stages"].values()]
        done = f"{states.count('done')}/{len(states)} stages done"
        return f"Run({str(self.folder)!r}, {self.record['command']}, {done})"

    def stage(self, name: str, *, key: str, build: Callable[[], object]) -> bool:
        """Run `build` unless the stage is done under the same key and its files exist; whether it was built.

        What `build` saves through this run belongs to the stage. A stage that raises is recorded as failed and
        its error passes through.
        """
        known = self.record["stages"].get(name, {})
        if (
            known.get("status") == "done"
            and known.get("key") == key
            and self._has(known.get("artefacts", []))
        ):
            log.debug("stage %s: up to date", name)
            return False
        self._artefacts = []
        self._mark(name, status="running", key=key, seconds=None, artefacts=[])
        began = time.perf_counter()
        status = "failed"
        try:
            with working(f"stage {name}"):
                build()
            status = "done"
        finally:
            seconds = round(time.perf_counter() - began, 3)
            self._mark(name, status=status, key=key, seconds=seconds, artefacts=sorted(set(self._artefacts)))
        log.log(logging.INFO if seconds >= LONG else logging.DEBUG, "stage %s: done in %.1f s", name, seconds)
        return True

    def note(self, **provenance: Any) -> None:
        """Add to run.json, for instance fingerprints={...}, data={...}, seeds=[...]; mappings merge."""
        for name, value in provenance.items():
            plain, old = jsonable(value), self.record.get(name)
            self.record[name] = (
                {**old, **plain} if isinstance(old, dict) and isinstance(plain, dict) else plain
            )
        self._write()

    def artefact(self, relative: str) -> Path:
        """Path inside the folder for a file the present stage writes; its parent folder exists afterwards."""
        path = self.folder.joinpath(*[_plain(part) for part in relative.split("/")])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._artefacts.append(relative)
        return path

    def save_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Write tables/<name>.parquet."""
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return self._save(f"tables/{name}.parquet", buffer.getvalue())

    def save_figure(self, name: str, figure: go.Figure) -> Path:
        """Write figures/<name>.html, and plotly.min.js once in the same folder."""
        from plotly.offline import get_plotlyjs

        if not (self.folder / "figures" / SCRIPT).is_file():
            self._save(f"figures/{SCRIPT}", get_plotlyjs())
        return self._save(f"figures/{name}.html", figure_page(name, figure))

    def save_pictures(self) -> bool:
        """Write figures/<name>.png of every figure as a stage of its own; whether there was anything to draw.

        One start of the browser draws them all. Without a browser, or when it fails, the run goes on without PNGs.
        """
        pages = {path.stem: path.read_text() for path in sorted(self.folder.glob("figures/*.html"))}
        if browser() is None or not pages:
            return False
        if importlib.util.find_spec("kaleido") is None:
            log.warning("no PNG: kaleido is not installed; run pip install -e '.[png]' in the clone")
            return False
        try:
            return self.stage("pictures", key=digest(FORMAT, pages), build=lambda: self._draw(pages))
        except (ImportError, RuntimeError, ValueError, OSError) as error:
            log.warning("no PNG: the browser failed: %s", str(error).strip().partition("\n")[0])
            return False

    def save_json(self, name: str, obj: Any) -> Path:
        """Write <name>.json; "summary" is what the report opens with."""
        return self._save(f"{name}.json", json_text(obj))

    def save_verdicts(self, verdicts: Sequence[Any]) -> Path:
        """Write verdicts.json, all of it: a list of verdicts (anything with `to_json`) or plain mappings."""
        return self.save_json("verdicts", [_verdict(verdict) for verdict in verdicts])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every saved table by name."""
        import pandas as pd

        return {path.stem: pd.read_parquet(path) for path in sorted(self.folder.glob("tables/*.parquet"))}

    @property
    def figures(self) -> dict[str, str]:
        """Every saved figure by name, as the HTML fragment that draws it once plotly.js is loaded."""
        pages = {path.stem: path.read_text() for path in sorted(self.folder.glob("figures/*.html"))}
        return {name: page_fragment(name, page) for name, page in pages.items()}

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """What save_verdicts wrote, or an empty list."""
        return self._read_json("verdicts", [])

    @property
    def summary(self) -> dict[str, Any]:
        """What save_json("summary", ...) wrote, or an empty mapping."""
        return self._read_json("summary", {})

    def _read_json(self, name: str, default: Any) -> Any:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else default

    def _save(self, relative: str, content: str | bytes) -> Path:
        path = self.artefact(relative)
        write_atomic(path, content)
        return path

    def _draw(self, pages: Mapping[str, str]) -> None:
        drawn = pictures({name: page_drawing(page) for name, page in pages.items()})
        for name, image in drawn.items():
            self._save(f"figures/{name}.png", image)

    def _has(self, artefacts: Iterable[str]) -> bool:
        return all((self.folder / relative).exists() for relative in artefacts)

    def _mark(self, name: str, **fields: Any) -> None:
        self.record["stages"][name] = fields
        self._write()

    def _write(self) -> None:
        write_atomic(self.folder / "run.json", json_text(self.record))


def _verdict(verdict: Any) -> Any:
    plain = verdict.to_json() if hasattr(verdict, "to_json") else verdict
    return json.loads(plain) if isinstance(plain, str) else plain


def _plain(name: str) -> str:
    """Refuse names that would leave their folder or surprise a file system."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name):
        raise InputError(f"{name!r} cannot name a file; use letters, digits, '.', '_', '+' and '-'")
    return name


def _new_record(command: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json holds before the first stage."""
    given = jsonable(dict(arguments))
    configuration = {**jsonable(dict(defaults)), **given}
    return {
        "format": FORMAT, "command": command, "arguments": given, "configuration": configuration,
        "digest": digest(FORMAT, command, configuration),
        "seeds": configuration.get("seeds", configuration.get("seed")),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(), "git": git_state(), "template_date": template_date(),
        "fingerprints": {}, "data": {}, "stages": {},
    }  # fmt: skip


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to mix two configurations, or two dates that chat templates see, in one folder."""
    dates = [record.get("template_date", template_date()) for record in (old, new)]
    if dates[0] != dates[1]:
        raise InputError(
            f"{folder} holds a run whose chat templates see the date {dates[0]}, not {dates[1]}; "
            f"set INTERP_TEMPLATE_DATE={dates[0]} to go on with it, or choose another output folder"
        )
    if old["digest"] == new["digest"]:
        return
    advice = "choose another output folder or repeat the old arguments"
    if old["command"] != new["command"]:
        raise InputError(f"{folder} holds a run of {old['command']!r}, not of {new['command']!r}; {advice}")
    name, before, now = _first_apart(old["configuration"], new["configuration"])
    raise InputError(f"{folder} holds a run with {name}={before!r}, not {now!r}; {advice}")


def _first_apart(before: Any, now: Any, path: tuple[str, ...] = ()) -> tuple[str, Any, Any]:
    """The first value in which two nested configurations differ, by its keys joined with dots."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**now, **before}:
            if before.get(key) != now.get(key):
                return _first_apart(before.get(key), now.get(key), (*path, key))
    return ".".join(path) or "its format", before, now
