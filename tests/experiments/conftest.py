"""What the tests of the table of results put in place of its rows."""

import pytest

from experiments.reproduce import __main__ as reproduce


@pytest.fixture
def toy(monkeypatch):
    def put(*rows):
        monkeypatch.setattr(reproduce, "every_row", lambda: {row.name: row for row in rows})

    return put
