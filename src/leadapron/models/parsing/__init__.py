"""Model files of others, read as data: nothing in them is run, and none is parsed in this process.

`reading` opens a file and has a confined process (`server`, `formats`) say what it holds; `scan`
tells from bytes what a file would do. Only `reading` loads torch, so that the process starts fast.
"""
