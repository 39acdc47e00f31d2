"""The command line: each command a thin shell over a public verb; those over files are here.

interp.cli.score_file(base, data, ["update:PATH"], out=...)  is  interp score --base ... --direction update:PATH
"""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
