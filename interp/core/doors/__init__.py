"""The door of a public verb: every argument is of the kind its annotation names, or becomes it, or is refused.

`@door` stands outermost on a public function, method or class. What is refused is one InputError that names the
argument, what came and what would do, before anything is computed. Rows, traits and paths are taken in every shape that
their nouns read (`Prompts.of`, `Trait.of`). A call costs microseconds.
"""

from interp.core.doors.calls import door

__all__ = ["door"]
