"""The machinery behind the table of results."""
