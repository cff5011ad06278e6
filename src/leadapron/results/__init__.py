"""What a study found, on disk and in types: rows, folders, verdicts; no drawing, no networks."""
