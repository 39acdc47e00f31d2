"""The seam to hooked networks (seam), its Hugging Face side (language), and who came from whom (lineage)."""
