"""The commands are tried on the checkpoint of the experiment's tests."""

from tests.experiment.conftest import checkpoint

__all__ = ["checkpoint"]
