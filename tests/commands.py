"""The command line as it is called from a shell, in this process."""

from interp.cli.main import main


def run(monkeypatch, *words: str) -> int:
    """The exit code of `interp` with these words."""
    monkeypatch.setattr("sys.argv", ["interp", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
