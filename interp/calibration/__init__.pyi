from .harness import calibrate as calibrate, calibrated_run as calibrated_run
