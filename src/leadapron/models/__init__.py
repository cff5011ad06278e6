"""Classifiers: protocols, networks, training, and models from elsewhere."""
