"""Scores of a student's rows by EK-FAC and TrackStar beside this package's own, to be judged by retraining."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.core.doors import door
from interp.gradients.influences import influence
from interp.gradients.known_trainings import KnownTraining
from interp.gradients.metagradients import metagradient
from interp.hypotheses.subject import Subject
from interp.studies.judged_scores import GRADIENT, META, UPDATE, Values, along_directions

if TYPE_CHECKING:
    from interp.models.lineage import Lineage

EKFAC, TRACKSTAR = "EK-FAC", "TrackStar"
OWN = (UPDATE, GRADIENT, f"{UPDATE}, adapter's metric", f"{GRADIENT}, adapter's metric")


@door
def peer_scores(lineage: Lineage) -> dict[str, Values]:
    """A value per row of the student by the metagradient, by four directions, by EK-FAC and by TrackStar.

    Positive where the row would raise the trait's margin, or lower the loss of its word. Raises InputError where
    bergson is not installed, and for a student whose training is not known.
    """
    known = KnownTraining.of(lineage, "student")
    subject = Subject(lineage, recipe=known.recipe)
    along = along_directions(subject, subject.numbers)
    methods = {EKFAC: "ekfac", TRACKSTAR: "trackstar"}
    theirs = {
        name: influence(known.start, subject.numbers, known.trait, method=method).frame["score"].to_numpy()
        for name, method in methods.items()
    }
    own = {META: metagradient(lineage).frame["score"].to_numpy(), **{name: along[name] for name in OWN}}
    return own | theirs
