"""What the tests of this folder share."""

from __future__ import annotations

import pytest
from legacy_images import Store, convert


@pytest.fixture(scope="session")
def legacy_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the image of Python 2.7, as published in 2018; nobody changes it."""
    return convert("2.7", tmp_path_factory.mktemp("legacy-2.7"))
