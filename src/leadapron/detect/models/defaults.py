"""What an audit does unless it is asked for something else."""

from __future__ import annotations

__all__ = ["FALSE_ALARM", "FILMS", "STEPS"]

FALSE_ALARM = 0.05
"""Share of clean models that an audit may call backdoored."""

FILMS = 256
"""Clean films that a model is swept on, at most."""

STEPS = 80
"""Steps of trigger inversion, at most."""
