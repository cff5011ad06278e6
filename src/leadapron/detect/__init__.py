"""Detectors of scans, audits and screenings. Higher scores are more suspicious."""
