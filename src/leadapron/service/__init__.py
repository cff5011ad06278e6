"""The gate in service: an engine with a spool on disk, and the doors that films come in by."""
