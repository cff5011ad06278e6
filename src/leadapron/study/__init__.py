"""A poisoning study: plan, run, measure."""
