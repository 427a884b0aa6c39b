"""What several test files need."""
import shutil
import subprocess

import pytest

import unequal  # noqa: F401  before the test files import mxnet
from helpers import TESTS, jobs
from helpers.models import checkpoint, faces, network  # noqa: F401  fixtures

# The files that take longest come first: last, one process would work on them while the other has
# ended.
LONGEST = ("test_learning.py", "test_faults.py", "test_workers.py", "test_fuzz.py")


def pytest_configure(config):
    # Else pytest-xdist takes the files with the most tests first, and test_learning has one.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def stub_driver(tmp_path_factory):
    """Path of a libcuda.so.1 that shows an A10 (8.6) and an H100 (9.0) and computes nothing."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library),
                    str(TESTS / "helpers" / "stub_driver.c")], check=True)
    return library


@pytest.fixture
def launch():
    """`jobs.launch`, whose jobs do not survive a test that fails."""
    started = []

    def start(*arguments, **environment):
        started.append(jobs.launch(*arguments, **environment))
        return started[-1]

    yield start
    for job in started:
        job.kill()  # the keepers end the rest
        job.communicate()
