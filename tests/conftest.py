import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

matplotlib.use("agg")  # not by the environment: kernels that the tests start are to show their figures
SLOW = {"export", "model", "train", "test_notebooks.py", "test_own_data.py", "test_cluster.py"}  # of large networks
LONG = (
    "test_own_data.py", "test_export.py", "test_browser.py", "test_stages.py", "test_cluster.py", "test_folders.py",
    "test_head.py",  # else the very last, alone
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & {item.path.parent.name, item.path.name}:
            item.add_marker(pytest.mark.slow)
    # The walk first, then what takes long: at the end no worker waits for the other.
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", item.path.name not in LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file stays on one worker for its fixtures' sake; what walks through the notebooks stays together, in order.

    Groups by mark (`--dist loadgroup`) are lost with pytest 9, whose node ids take no suffix.
    """
    from xdist.scheduler import LoadFileScheduling

    class Walks(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "notebooks" if "::ipynb" in nodeid or file.endswith(("ipynb", "test_notebooks.py")) else file

    return Walks(config, log)


@pytest.fixture(autouse=True)
def _no_open_figures():
    yield
    plt.close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
