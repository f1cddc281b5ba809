import os
from pathlib import Path

import pytest

from dpmi.data.read_omniglot import read_characters


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets; a test that needs it is skipped where there is none."""
    root = os.environ.get("DPMI_DATA")
    if not root:
        pytest.skip("DPMI_DATA is not set: this test reads the real data sets")
    return Path(root)


@pytest.fixture(scope="session")
def characters(data_root):
    """Omniglot's characters."""
    return read_characters(data_root, dataset="omniglot")
