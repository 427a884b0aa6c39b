"""What several test files need."""
import shutil
import subprocess

import pytest

import unequal  # noqa: F401  before the test files import mxnet
from helpers import TESTS, jobs
from helpers.models import checkpoint, faces, network  # noqa: F401  fixtures


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
