"""What every step of a training did to a direction or a margin: its record, ledger and course."""
