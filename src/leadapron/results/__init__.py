"""Results of studies, on disk and as types: rows, folders, verdicts; no drawing, no networks."""
