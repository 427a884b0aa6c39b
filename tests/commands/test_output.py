"""Output that cannot be written: no traceback, and the code that docs/reliability.md gives."""
import subprocess
import sys

import pytest

WORK = """
import logging, sys
from unequal.commands import cli
from unequal.system import progress

def script():
    for number in range(3000):
        logging.info("line %d", number)
    open(sys.argv[1], "w").write("done")

def results():
    for number in range(3000):
        print("result", number)

cli.open_streams()
cli.setup_logging(sys.stdout if sys.argv[2] == "script" else None)
with progress.Bar(3, "x", "y"):
    sys.exit(cli.report_errors({"script": script, "results": results}[sys.argv[2]]))
"""


def run(tmp_path, what, redirection):
    command = f"'{sys.executable}' '{tmp_path}/unequal' '{tmp_path}/done' {what}"
    (tmp_path / "unequal").write_text(WORK)  # a script of this name does not import MXNet
    script = f"set -o pipefail; {command} {redirection}"
    return subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          universal_newlines=True, timeout=100)


@pytest.mark.parametrize("redirection, words", [
    ("> /dev/full", "messages cannot be written any more ([Errno 28] No space left on device); "
                    "the work goes on without\n"),
    ("| head -1", ""), ("> /dev/full 2>&1", ""), ("2>&-", ""), (">&-", ""), (">&- 2>&-", "")])
def test_training_goes_on_without_its_messages(tmp_path, redirection, words):
    done = run(tmp_path, "script", redirection)
    assert (tmp_path / "done").read_text() == "done"
    assert (done.stderr, done.returncode) == (words, 0)


@pytest.mark.parametrize("redirection, words, code", [
    ("> /dev/full", "error: [Errno 28] No space left on device\n", 1), ("| head -1", "", 141),
    ("> /dev/full 2>&1", "", 1), ("2>&-", "", 0), (">&- 2>&-", "", 0)])
def test_results_that_cannot_be_written_are_an_error(tmp_path, redirection, words, code):
    done = run(tmp_path, "results", redirection)
    assert (done.stderr, done.returncode) == (words, code)
