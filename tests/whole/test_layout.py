"""Imports between the rooms run only down; the folders have no circle."""
import ast
import re

import pytest

from helpers import ROOT

# Each may import from those before it, and from its own room.
FLOORS = (("errors",), ("system",), ("symbols", "eval", "cluster"), ("data",),
          ("models", "synthetic"), ("training",), ("report",), ("commands",))
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FOLDERS = {"symbols": ROOT / "symbols", "eval": ROOT / "eval"}
ENTRY = {"__init__", "__main__"}  # of the package itself


def room_of(path):
    for room, folder in FOLDERS.items():
        if folder in path.parents:
            return room
    return path.relative_to(ROOT / "src" / "unequal").parts[0].replace(".py", "")


def imported(path):
    """The rooms that a file imports from, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "unequal" and len(parts) > 1 and parts[1] in FLOOR:
                yield parts[1], node.lineno


MODULES = [path for folder in (ROOT / "src", *FOLDERS.values()) for path in folder.rglob("*.py")
           if path.stem not in ENTRY or path.parent.name != "unequal"]


def test_every_module_is_in_a_known_room():
    assert len(MODULES) > 50
    assert {room_of(path) for path in MODULES} <= set(FLOOR)


# Modules whose tests are not tests/ROOM/test_NAME.py, and where they are.
ELSEWHERE = {
    "cluster/job": "commands/test_launch.py", "cluster/keeper": "commands/test_launch.py",
    "commands/cli": "whole/test_terminal.py", "commands/drop_centers": "models/test_centers.py",
    "commands/import_": "commands/test_import.py", "commands/train": "training/test_auto.py",
    "commands/unpack": "commands/test_pack.py", "data/_decoder": "data/test_expendable.py",
    "report/pictures": "commands/test_report.py", "training/config": "training/test_flags.py",
    "training/learner": "training/test_fit.py", "training/setup": "training/test_run_setup.py",
    "training/split_head": "training/test_split_learner.py",
    "training/stages": "training/test_forms.py"}


def test_every_module_has_its_tests():
    tests = {f"{room_of(path)}/{path.stem}" if room_of(path) != path.stem else path.stem:
             path for path in MODULES if path.stem not in ENTRY}
    assert set(ELSEWHERE) <= set(tests)
    missing = []
    for module in tests:
        room, _, name = module.rpartition("/")
        own = ROOT / "tests" / room / f"test_{name}.py"
        if not (own if module not in ELSEWHERE else ROOT / "tests" / ELSEWHERE[module]).exists():
            missing.append(module)
        if module in ELSEWHERE and own.exists():
            missing.append(f"{module}: {own.name} is there, ELSEWHERE need not name it")
    assert missing == []


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_imports_run_down(room):
    upward = [f"{path.relative_to(ROOT)}:{line} imports from {other}"
              for path in MODULES if room_of(path) == room
              for other, line in imported(path)
              if FLOOR[other] > FLOOR[room] or (FLOOR[other] == FLOOR[room] and other != room)]
    assert upward == []


def test_no_command_imports_another():
    commands = {path.stem for path in MODULES if room_of(path) == "commands"}
    shared = {"arguments", "cli", "__init__"}
    offenders = []
    for path in MODULES:
        if room_of(path) != "commands" or path.stem in shared:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "unequal.commands":
                offenders += [f"{path.name} imports {alias.name}" for alias in node.names
                              if alias.name in commands - shared]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                    "unequal.commands.") and node.module.split(".")[2] in commands - shared:
                offenders.append(f"{path.name} imports {node.module}")
    assert offenders == []


def _circle(imports):
    """A circle in {name: names it imports}, as a list of names; None where there is none."""
    done = set()

    def visit(name, path):
        if name in path:
            return path[path.index(name):] + [name]
        if name not in done:
            for other in imports.get(name, ()):
                found = visit(other, path + [name])
                if found:
                    return found
            done.add(name)
        return None

    return next(filter(None, (visit(name, []) for name in imports)), None)


@pytest.mark.parametrize("folder", ("benchmarks", "campaigns", "studies", "tests/helpers", "."))
def test_scripts_do_not_import_each_other_in_a_circle(folder):
    """Also where an import stands inside a function."""
    paths = sorted((ROOT / folder).glob("*.py"))
    package = "helpers." if folder == "tests/helpers" else ""  # scripts are modules of their own
    imports = {}
    for path in paths:
        found = imports[package + path.stem] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    assert len(imports) > 2 and _circle(imports) is None


def test_a_circle_is_found():
    assert _circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]
    assert _circle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


def test_no_function_is_longer_than_sixty_lines():
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = [part for part in node.body
                        if not (isinstance(part, ast.Expr) and isinstance(
                            getattr(part, "value", None), ast.Constant))]
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines >= 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {lines}")
    assert long == []


def test_private_parts_of_mxnet_have_one_module():
    """MXNet's C interface, and what its Module keeps under a leading underscore."""
    private = {"_LIB", "check_call", "_exec_group", "_curr_module", "_params_dirty", "_optimizer"}
    found = {path.name for path in MODULES for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if (isinstance(node, ast.Attribute) and node.attr in private
                 and not (isinstance(node.value, ast.Name) and node.value.id == "self"))
             or (isinstance(node, ast.ImportFrom) and private & {one.name for one in node.names})}
    assert found == {"mxnet_private.py"}


def test_the_tests_that_the_docs_name_are_there():
    """`file::test` in docs/*.md; `::test` alone is in the file named before."""
    named = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        path = None
        for file, test in re.findall(r"`([\w/]+\.py)?(?:::(test_\w+))?`",
                                     page.read_text(encoding="utf-8")):
            if file and not file.rpartition("/")[2].startswith("test_"):
                continue
            if file:
                path = ROOT / "tests" / file.replace("tests/", "", 1)
                assert path.exists(), (page.name, file)
            if test:
                named += 1
                assert path is not None and f"\ndef {test}(" in path.read_text(
                    encoding="utf-8"), (page.name, file, test)
    assert named > 60


def test_the_links_of_the_pages_lead_somewhere():
    """Links to files and headings of the repository; others are not followed."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    headings = {page.resolve(): {re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(
        " ", "-") for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "#"}
        for page in pages}
    followed = 0
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, heading = link.partition("#")
            if "://" in link:
                continue
            target = (page.parent / path if path else page).resolve()
            assert target.exists(), (page.name, link)
            assert not heading or heading in headings[target], (page.name, link)
            followed += 1
    assert followed > 20
