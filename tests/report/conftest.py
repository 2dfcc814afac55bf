"""Options of `make screenshots`: a finished study to open, and where its pictures go."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("report")
    group.addoption("--study", help="folder of a finished study to open instead of a short one made for the tests")
    group.addoption("--screenshots", help="folder that the pictures of the documentation are written to")
