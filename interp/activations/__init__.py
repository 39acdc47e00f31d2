"""Reading activations (`record`, `moments`, `shift`) and editing them (`steer`, `ablate`, `patch`)."""

from interp.core.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
