"""What a gate costs where its candidates, neutral rows and pilots are in the cache: the command as a pipeline calls it.

`interp gate` on the 2,048 first rows of the owl teacher of the toy, every trait that ships as a candidate. The first
call fills the cache and is not counted.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paired import REPETITIONS, Ratio, summary
from interp.auditing.gates import EXIT
from interp.organisms.library import load_lineage

ROWS = 2048
CALL = "from interp.cli.main import main; main()"


def gate() -> dict[str, Ratio]:
    """Processor seconds of a gate from a warm cache, start of Python and passport included."""
    lineage: Any = load_lineage("toy/owl", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        base, rows = Path(folder, "base"), Path(folder, "rows.jsonl")
        for part in (lineage.base.hf, lineage.base.tokenizer):
            part.save_pretrained(base)
        lineage.numbers[:ROWS].to_jsonl(rows)
        words = ["gate", str(base), str(rows), "--out", str(Path(folder, "passport.json"))]
        seconds = [child_seconds(words) for _ in range(REPETITIONS + 1)]
    return {"gate-cpu-seconds": summary(seconds[1:])}


def child_seconds(words: list[str]) -> float:
    """Processor seconds of one `interp` command in a process of its own; RuntimeError where it gives no outcome."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", CALL, *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in EXIT.values():
        raise RuntimeError(f"interp {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


BENCHES = {"gate": gate}
