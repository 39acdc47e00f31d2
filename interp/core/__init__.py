"""What everything stands on: errors, content keys, run folders, provenance, pages, processes, stored tensors."""
