"""docs/api.md: its example runs, and what it lists is there."""
import re

import pytest

from helpers import ROOT, signatures
from unequal.synthetic import dataset

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


def test_the_notebook_example(tmp_path, monkeypatch, capsys):
    code, = re.findall("```python\n(.*?)```", PAGE, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    dataset.make_dataset(str(tmp_path / "data"), seed=1, image_size=16, head_identities=6,
                         head_images=12, tail_identities=4, eval_identities=20, eval_pairs=40)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace("max_steps=100, verbose=50", "max_steps=40, verbose=20")
         .replace('"r18"', '"n8"'), names)
    steps = [step for step, _ in names["losses"].seen]
    assert steps == [20, 40] and names["losses"].seen[1][1] > 0
    assert 0 < names["best"].mean <= 1
    assert (tmp_path / "models" / "example" / "model-0000.params").exists()
    assert capsys.readouterr().out.startswith("[(20, ")


@pytest.mark.parametrize("module,name", sorted(set(signatures.listed(PAGE))))
def test_what_is_listed_is_there(module, name):
    assert signatures.find(module, name).__doc__


def test_the_signatures_are_current():
    """Written by ``python tests/helpers/signatures.py``."""
    block, = signatures.BLOCK.findall(PAGE)
    assert block == signatures.text(PAGE)
