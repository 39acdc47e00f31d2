"""The frozen claims about subliminal learning, and what measures them."""
