"""Evaluations: detection rates, false alarms and blind spots of scans, audits and gates."""
