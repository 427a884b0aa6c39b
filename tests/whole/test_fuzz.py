"""The fuzzer's short run; ``campaigns/fuzz.py`` alone is the long one."""
import re
import runpy
import subprocess
import sys

from helpers import ROOT

SCRIPT = ROOT / "campaigns" / "fuzz.py"
INPUTS = 3  # a format


def test_damaged_files_of_every_format(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "--inputs", str(INPUTS), "--limit", "120"],
                          cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert done.returncode == 0, done.stdout
    # What must not happen is noticed when it does.
    assert "defects noticed: 11 of 11" in done.stdout
    rows = re.findall(r"^([a-z-]+) +(\d+) +(\d+) +(\d+) +(\d+) +[\d.]+ +\d+$", done.stdout,
                      re.MULTILINE)
    assert tuple(row[0] for row in rows) == runpy.run_path(str(SCRIPT))["FORMATS"], done.stdout
    for name, inputs, accepted, refused, wrong in rows:
        assert (int(inputs), int(wrong)) == (INPUTS, 0), name
        assert int(accepted) + int(refused) >= INPUTS, name
    assert not list(tmp_path.iterdir())
