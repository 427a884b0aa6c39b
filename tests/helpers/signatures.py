"""The signatures of docs/api.md; ``python tests/helpers/signatures.py`` writes them there."""
import importlib
import inspect
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"(?<=## Signatures\n\n```\n)(.*?)(?=```)", re.S)


def listed(page):
    """``module, name`` of each entry of the page's table."""
    table = page[page.index("| what | where |"):page.index("\n\n", page.index("| what |"))]
    for row in table.splitlines()[2:]:
        module = None
        for entry in re.findall("`([A-Za-z_.]+)`", row.split("|")[2]):
            if entry.startswith("unequal."):
                module, _, name = entry.rpartition(".")
                yield module, name
            else:
                yield module, entry


def find(module, name):
    """The object; a module where it is one."""
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        return importlib.import_module(f"{module}.{name}")


def _parts(found):
    """The callables of an entry: itself, or what a module defines under a public name."""
    if not inspect.ismodule(found):
        return [found] if callable(found) else []
    return [value for name, value in vars(found).items()
            if not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == found.__name__]


def _signature(found):
    """Names and defaults; annotations are written differently by different Pythons."""
    if inspect.isclass(found) and issubclass(found, Exception):
        return ""
    signature = inspect.signature(found)
    if len(signature.parameters) > 20:  # a script's settings
        return "(...)  # the flags of docs/flags.md"
    empty = inspect.Parameter.empty
    return str(signature.replace(return_annotation=inspect.Signature.empty, parameters=[
        one.replace(annotation=empty) for one in signature.parameters.values()]))


def _members(found):
    """The public methods and properties that a class defines itself; of Trainer only ``fit``."""
    for name, value in vars(found).items():
        if name.startswith("_") or (found.__name__ == "Trainer" and name != "fit"):
            continue
        if isinstance(value, property):
            yield f"    .{name}"
        elif isinstance(value, (classmethod, staticmethod)):
            yield f"    .{name}{_signature(getattr(found, name))}"
        elif inspect.isfunction(value):
            text = _signature(value)
            yield f"    .{name}{text}".replace("(self, ", "(").replace("(self)", "()")


def text(page):
    """A line for each callable of the table, its methods below it."""
    lines = []
    for module, name in listed(page):
        for found in _parts(find(module, name)):
            lines.append(f"{found.__module__}.{found.__qualname__}{_signature(found)}")
            if inspect.isclass(found):
                lines += _members(found)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    old = PAGE.read_text("utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: text(old), old), "utf-8")
