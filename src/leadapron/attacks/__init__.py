"""Attacks: triggers, poisoning, backdoors edited into weights, and decoys."""
