"""What `import leadapron as la` calls: each job on paths, arrays or open objects.

The names are those of `leadapron.__all__`; a module here is loaded when one of its names is used.
"""
