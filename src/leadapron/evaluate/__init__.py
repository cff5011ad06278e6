"""Evaluations: how much a method finds, how often it is wrong, and where it is blind."""
