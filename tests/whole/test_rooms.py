"""The house: imports run only down, and no sub-command needs another."""
import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Lower rooms first; those in one row may use each other.
ORDER = (("errors",), ("system",), ("symbols", "eval", "data", "cluster"), ("models", "synthetic"),
         ("training",), ("report",), ("commands",))
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
SHARED = {"arguments"}  # of commands; `cli` is the table of them


def modules():
    for folder, prefix in ((ROOT / "src" / "unequal", ()), (ROOT / "symbols", ("symbols",)),
                           (ROOT / "eval", ("eval",))):
        for path in sorted(folder.rglob("*.py")):
            yield path, prefix + path.relative_to(folder).with_suffix("").parts


def imported(path):
    """Modules of ours that a file imports, each as a tuple of names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unequal":
            for alias in node.names:
                yield tuple(node.module.split(".")[1:]) + (alias.name,)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("unequal."):
                    yield tuple(alias.name.split(".")[1:])


def test_imports_run_down():
    wrong = [(".".join(module), ".".join(names)) for path, module in modules()
             for names in imported(path)
             if module[0] in LEVEL and LEVEL.get(names[0], -1) > LEVEL[module[0]]]
    assert not wrong


def test_a_command_imports_no_other():
    wrong = [(module[1], names[1]) for path, module in modules() if module[0] == "commands"
             for names in imported(path)
             if module[1] != "cli" and names[0] == "commands" and names[1] not in SHARED]
    assert not wrong
