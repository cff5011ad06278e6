"""What an audit does unless it is asked for something else."""

from __future__ import annotations

__all__ = ["FALSE_ALARM", "FILMS", "STEPS", "STUDENTS", "TAUGHT"]

FALSE_ALARM = 0.05
"""Share of clean models that an audit may call backdoored."""

FILMS = 256
"""Clean films that a model is swept on, at most."""

STEPS = 80
"""Steps of trigger inversion, at most."""

STUDENTS = 5
"""Students of the model, where it has no reference models."""

TAUGHT = 600
"""Clean films that students are taught and marks are measured on, at most."""
