from .harness import calibrate as calibrate
