"""Classifiers: protocols, networks, training, and models that others trained."""
