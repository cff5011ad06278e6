"""What can be found out of a model: its input size, normalisation, head and outputs.

`trials` runs it on labelled films with many settings, `choosing` takes a setting only if its lead
is beyond chance, `outputs` describes what the model gives, `document` holds the result.
"""
