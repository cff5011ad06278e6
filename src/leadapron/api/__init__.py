"""The public API (`import leadapron as la`): each job on paths, arrays or open objects.

Its names are in `leadapron.__all__`; a module is imported when one of its names is first used.
"""
