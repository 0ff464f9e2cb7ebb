import os

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.pyplot as plt
import numpy as np
import pytest

SLOW = {"export", "model", "train", "test_notebooks.py", "test_cluster.py"}  # rooms and files of large networks


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """With `--dist loadgroup`: a file is one group, for its fixtures' sake, and what walks through the notebooks, too."""
    for item in items:
        walks = item.path.suffix == ".ipynb" or item.path.name == "test_notebooks.py"
        item.add_marker(pytest.mark.xdist_group("notebooks" if walks else str(item.path)))
        if SLOW & {item.path.parent.name, item.path.name}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    plt.close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
