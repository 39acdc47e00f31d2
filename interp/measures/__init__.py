"""What a model is asked: its margin between words, and its loss per answer token."""
