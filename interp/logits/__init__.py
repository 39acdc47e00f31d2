"""Which logits a fine-tune moved, and through what: directions, attribution, lens, spectrum, entanglement.

Nothing is imported here: every verb lives in its own module, and the package root offers them lazily.
"""
