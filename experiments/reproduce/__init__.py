"""The machinery behind the table of paper numbers."""
