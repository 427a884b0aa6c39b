"""setup.py, the package as it is installed, and the layout of the three folders."""
import re
import runpy
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
import setuptools

import unequal
from helpers import ROOT

ROOMS = ("cluster", "commands", "data", "models", "report", "synthetic", "system", "training")
TOP = {"unequal": "src/unequal", "unequal.symbols": "symbols", "unequal.eval": "eval"}
FOLDERS = {**TOP, **{"unequal." + room: "src/unequal/" + room for room in ROOMS}}


@pytest.fixture
def arguments(monkeypatch):
    """What setup.py hands to setuptools."""
    recorded = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: recorded.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    return recorded


def test_folders_are_the_packages(arguments):
    assert arguments["package_dir"] == TOP
    assert sorted(arguments["packages"]) == sorted(FOLDERS)
    found = {path.parent.relative_to(ROOT).as_posix()
             for folder in TOP.values() for path in (ROOT / folder).rglob("__init__.py")}
    assert found == set(FOLDERS.values()), "a package is missing in setup.py"


def test_packages_are_installed_from_their_folders():
    for package, folder in FOLDERS.items():
        installed = Path(import_module(package).__file__).parent
        assert ({path.name for path in installed.glob("*.py")}
                == {path.name for path in (ROOT / folder).glob("*.py")}), package


def test_version_is_the_same_everywhere(arguments):
    assert arguments["version"] == unequal.__version__ == metadata.version("unequal-training")


def test_every_dependency_has_a_lower_bound(arguments):
    extras = arguments["extras_require"]
    assert {"cpu", "cu112", "plots", "dev", "bench"} <= set(extras)
    requirements = sum(extras.values(), arguments["install_requires"])
    assert [text for text in requirements if not re.search(r">=|==", text.split(";")[0])] == []


def test_the_command_is_installed():
    done = subprocess.run([str(Path(sys.executable).parent / "unequal"), "--help"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in done.stdout


def test_nothing_edits_sys_path():
    offenders = [path.name
                 for folder in ("src", "symbols", "eval", "benchmarks", "campaigns", "studies",
                                "tests")
                 for path in [*ROOT.glob("*.py"), *(ROOT / folder).rglob("*.py")]
                 if path != Path(__file__).resolve() and "sys.path" in path.read_text("utf-8")]
    assert offenders == []
