"""Untrusted model files, read as data: nothing in them is run, and none is parsed in this process.

`reading` opens a file, which a confined process (`server`, `formats`) parses; `scan` finds from the
bytes what a file would do. Only `reading` imports torch, so that the process starts fast.
"""
