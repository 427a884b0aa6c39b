"""The commands of docs/reproduce-mf2.md; studies/mf2_page.py runs them."""
import re
import shlex

import mf2_page
import pytest

from helpers import ROOT
from unequal.commands import cli
from unequal.training import config, flags


def parsed(line):
    """What the command or the script of a line makes of its words; SystemExit for a wrong one."""
    words = shlex.split(line.partition(" 2>&1|tee ")[0])
    if words[0] == "unequal":
        return cli.build_parser().parse_args(words[1:])
    if words[:2] == ["sh", "NRA.sh"]:
        script, words = "train_relusoft.py", words[2:]
    else:
        assert re.fullmatch(r"CUDA_VISIBLE_DEVICES=[\d,]+", words[0])
        assert words[1:3] == ["python", "-u"]
        script, words = words[3], words[4:]
    kind = config.SCRIPTS[script]
    return config.from_options(kind, flags.parser("", kind).parse_args(words))


def test_the_pages_commands_are_the_recipe():
    lines = mf2_page.commands()
    assert [re.search(r"unequal (\w+)|(\w+\.(py|sh)) ", line).group(1, 2) for line in lines] == [
        ("pack", None), ("split", None), ("inspect", None), ("inspect", None),
        (None, "train_softmax.py"), (None, "train_relusoft_savemodel.py"), (None, "NRA.sh"),
        ("noise", None), ("denoise", None), (None, "train_unequal.py")]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in lines:
        if "CUDA_VISIBLE_DEVICES" in line:  # word for word the README's
            assert line in readme


@pytest.mark.parametrize("line", mf2_page.commands())
def test_every_command_is_understood(line):
    assert parsed(line)
    small = parsed(mf2_page.adapted(line, mf2_page.SMALL, "n8"))
    assert getattr(small, "devices", "") in ("", "cpu:2")
    with pytest.raises(SystemExit):
        parsed(line.replace(" 2>&1", " --no-such-flag 2>&1") if "tee" in line
               else line + " --no-such-flag")


def test_what_is_changed_for_a_small_set():
    line = "python -u train_softmax.py --per-batch-size 100 --pretrained a/model,xx 2>&1|tee f.log"
    assert mf2_page.adapted(line, {"train_softmax.py": "--per-batch-size 2"}, "n8") == (
        "python -u train_softmax.py --per-batch-size 100 --pretrained a/model,best --network n8 "
        "--per-batch-size 2 2>&1|tee f.log")
