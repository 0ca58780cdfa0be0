"""Both precisions, as in the tests of the functions."""

from tests.functional.conftest import dtype  # noqa: F401
