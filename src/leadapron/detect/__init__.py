"""Detectors: what a scan, an audit and a screening ask. Higher scores are more suspicious."""
