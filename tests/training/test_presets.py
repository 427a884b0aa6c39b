"""Files of settings: ``--config``."""
import json

import pytest

from helpers import ROOT
from unequal.commands import arguments
from unequal.errors import InputError
from unequal.training import config, flags, presets
from unequal.training.config import SoftmaxConfig, UnequalConfig

FILE = """
from easydict import EasyDict as edict
network = edict()
network.n8 = edict(emb_size=128, lr=0.3, wd=0.1)
network.r50 = edict(emb_size=512)
dataset = edict()
dataset.mine = edict(data_dir="people", lr=0.4, mom=0.8)
config = edict(network="n8", dataset="mine", mom=0.7, bag_size=30)
"""


def settings(words, made=SoftmaxConfig):
    parser = flags.parser("", made, arguments.Parser)
    arguments.add_config_file(parser, made)
    return config.from_options(made, parser.parse_args(words))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def test_later_ones_win(file):
    """Defaults, the network's preset, the data set's, config, the command line."""
    found = settings(["--config", file, "--emb-size", "64"])
    assert (found.ckpt, found.wd, found.lr, found.mom, found.emb_size) == (1, 0.1, 0.4, 0.7, 64)
    assert (found.network, found.data_dir, found.config) == ("n8", "people", file)
    # The network of the command line has its own preset.
    found = settings(["--network=r50", "--config=" + file])
    assert (found.network, found.emb_size, found.wd) == ("r50", 512, 0.0005)
    assert settings([]) == SoftmaxConfig()


def test_a_step_takes_what_it_has(file):
    assert settings(["--config", file], UnequalConfig).bag_size == 30
    assert not hasattr(settings(["--config", file]), "bag_size")


def test_json_is_data(tmp_path):
    path = tmp_path / "a.json"
    for content in ({"lr": 0.25}, {"config": {"lr": 0.25}}):
        path.write_text(json.dumps(content))
        assert settings(["--config", str(path)]).lr == 0.25


def test_a_program_is_announced(file, caplog):
    caplog.set_level("INFO")
    settings(["--config", file])
    assert "mine.py: this program is run for its settings" in caplog.text


def test_the_example_of_a_checkout():
    path = str(ROOT / "config.py")
    assert settings(["--config", path]).data_dir == "./MF2_pic9_head/"
    assert settings(["--config", path, "--network", "n8"]).margin_s == 32.0


@pytest.mark.parametrize("name, content, message", [
    ("a.py", "config = 3", "defines no config"),
    ("a.py", "\nconfig = x", "a.py, line 2: NameError"),
    ("a.py", "config = {", "a.py, line 1: SyntaxError"),
    ("a.py", "config = {'lrr': 1}", "'lrr' in config is no setting; did you mean lr?"),
    ("a.py", "config = {'dataset': 'b'}; dataset = {'a': {}}", "'b' is no preset of dataset"),
    ("a.py", "config = {}; network = {'r50': 1}", "network.r50 must be settings by name"),
    ("a.json", "{", "is not JSON"),
    ("a.json", "[]", "expected an object"),
    ("a.yaml", "", "ends in .py"),
])
def test_a_bad_file_is_one_sentence(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        presets.defaults(str(tmp_path / name), SoftmaxConfig)
    assert message in str(error.value)
    with pytest.raises(SystemExit) as stopped:
        settings(["--config", str(tmp_path / name)])
    assert stopped.value.code == 1
    written = capsys.readouterr().err
    assert message in written and written.count("\n") == 1 and written.startswith("error: ")


@pytest.mark.parametrize("value", ["1", [], None, float("nan"), -1])
def test_a_value_of_another_kind_names_its_setting(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps({"mom": value, "verbose": value}))
    if value == "1":  # text is read as it is on the command line
        assert settings(["--config", str(tmp_path / "a.json")]).mom == 1.0
        return
    with pytest.raises(InputError, match="^(verbose|mom) "):
        settings(["--config", str(tmp_path / "a.json")])
