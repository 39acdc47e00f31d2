"""What a score of rows is compared with: controls, exchangeable samples, ladders, power, verdicts."""
