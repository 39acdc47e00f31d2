"""What a trained model has become: elicitation, score card, judges, misalignment, detectors."""
