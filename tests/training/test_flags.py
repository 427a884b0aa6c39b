"""The reference's command lines must keep working: flags, types and defaults are frozen here."""
import dataclasses
import sys

import pytest

from helpers import ROOT
from helpers.flags import FREE, NRA, OURS, REFERENCE, SHARED, TAIL, flags
from unequal.commands import cli
from unequal.errors import ArgumentError, InputError
from unequal.symbols import margins
from unequal.training import config
from unequal.training import flags as options
from unequal.training.config import Config, NraConfig, RelusoftConfig, SoftmaxConfig, UnequalConfig


@pytest.mark.parametrize("script, reference, ours", [
    ("train_softmax.py", REFERENCE, OURS),
    ("train_relusoft_savemodel.py", {**REFERENCE, **NRA},
     {**OURS, "--mean-loss": 0, "--gate": 0.0, "--truth": ""}),
    ("train_relusoft.py", {**REFERENCE, **NRA},
     {**OURS, "--mean-loss": 0, "--gate": 0.0, "--truth": "", "--noise-threshold": 0.0,
      "--first-epoch-order": "shuffled",
      "--noise-list": ""}),
    ("train_unequal.py", {**REFERENCE, **TAIL},
     {**OURS, "--mining": 1, "--bags": 100, "--patience": 100,
      "--state-minutes": 5.0}),
])
def test_the_scripts_have_the_references_flags_and_ours(script, reference, ours):
    expected = {**reference, **ours}
    if script != "train_softmax.py":
        del expected["--bndrop"]
    if script == "train_unequal.py":
        del expected["--per-batch-size"]
    assert flags(script) == expected
    assert {row.spelling for row in options.rows(config.SCRIPTS[script])
            if row.origin == options.OURS} == set(ours) | {"--debug"}


def test_the_papers_command_line_is_understood():
    args = options.parser("", SoftmaxConfig).parse_args(
        "--network r50 --loss-type 4 --margin-m 0.5 --data-dir ./MF2_pic9_head/ --end-epoch 40 "
        "--per-batch-size 100 --prefix ../models/r50_arc_pic9/model".split())
    args = config.from_options(SoftmaxConfig, args)
    assert (args.network, args.end_epoch, args.per_batch_size) == ("r50", 40, 100)


def test_the_loss_types_are_those_of_the_margins():
    assert config.ROWS["loss_type"].allowed.values == tuple(margins.LOSS_TYPES)
    assert {0, 1, 2, 4, 5} <= set(margins.LOSS_TYPES)


def test_types_are_kept():
    parser = options.parser("", Config)
    args = parser.parse_args(["--lr", "1", "--verbose", "5"])
    assert isinstance(args.lr, float) and isinstance(args.verbose, int)


def test_abbreviations_are_refused(capsys):
    """``--network r50 --margin 4`` must not turn into --margin-m some day."""
    with pytest.raises(SystemExit) as exit_:
        options.parser("", Config).parse_args(["--data", "x"])
    assert exit_.value.code == 2


def test_defaults_can_be_replaced_by_name_only():
    assert options.parser("", Config, lr=0.5).parse_args([]).lr == 0.5
    with pytest.raises(AssertionError):
        options.parser("", Config, learning_rate=0.5)


def test_help_is_in_groups_by_where_a_flag_comes_from():
    text = options.parser("", UnequalConfig).format_help()
    reference, ours, unused = (text.index(title) for title in (
        "flags of the reference", "flags of ours", "unused, accepted"))
    assert reference < text.index("  --bag-size ") < ours < text.index("  --mining ") < unused
    assert text.index("  --margin-inter ") > unused
    assert "weight decay [at least 0] (default: 0.0005)" in " ".join(text.split())


def test_what_a_resumed_run_may_change_and_workers_must_share():
    rows = config.ROWS.values()
    assert {row.name for row in rows if row.change != options.NEVER} == FREE
    assert {row.name for row in rows if row.change == options.AT_RESUME} == SHARED
    values = UnequalConfig(lr=0.5)
    assert config.identity(values)["--batchsize_id"] == 90
    assert not {"--verbose", "--eval-dir"} & set(config.identity(values))
    assert set(config.shared(values)) - set(config.identity(values)) == {
        config.spelling(name) for name in SHARED}


def test_a_configuration_is_made_once():
    first = SoftmaxConfig(lr=1, margin_m=0.3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.lr = 2.0
    second = config.replace(first, lr=2.0)
    assert (first.lr, second.lr, second.margin_m) == (1, 2.0, 0.3)
    with pytest.raises(ArgumentError, match=r"^lr -1\.0 must be above 0\.$"):
        config.replace(first, lr=-1.0)


@pytest.mark.parametrize("changes, text", [
    (dict(bn_mom=1e308), r"^bn_mom 1e\+308 must lie in \[0, 1\]\.$"),
    (dict(fc7_wd_mult=float("nan")), "^fc7_wd_mult nan is not a finite number"),
    (dict(lr=float("inf")), "^lr inf is not a finite number"),
    (dict(lr=1e308), r"^lr 1e\+308 must be at most 3.4\d*e\+38"),
    (dict(lr=0.0), r"^lr 0\.0 must be above 0\.$"),
    (dict(gate=1e-320), "^gate 1e-320 is too small"),
    (dict(per_batch_size=2 ** 31), "^per_batch_size 2147483648 must be at most 2147483647"),
    (dict(verbose=0), "^verbose must be above 0.$"),
    (dict(cutoff=-1), "^cutoff -1 must not be negative"),
    (dict(margin=0), "^margin 0 must be at least 1.$"),
    (dict(loss_type=3), "^loss_type 3 is unknown; known are "
     + ", ".join(map(str, margins.LOSS_TYPES)) + r"\.$"),
    (dict(use_deformable=1), "^use_deformable 1 is not supported"),
    (dict(prefix=""), "^prefix is empty"),
    (dict(prefix="m\udcff/model"), "^prefix 'm.*' is not UTF-8"),
    (dict(target="a\0b"), "^target .* holds a zero byte"),
    (dict(lr="0.1"), "^lr '0.1' must be of type float"),
    (dict(verbose=True), "^verbose True must be of type int"),
    (dict(resume="yes"), "^resume 'yes' is unknown"),
])
def test_a_value_that_is_not_allowed_names_its_field(changes, text):
    with pytest.raises(ArgumentError, match=text) as error:
        RelusoftConfig(**changes)
    assert error.value.arguments == tuple(changes)


def test_the_command_line_names_the_flag(capsys, monkeypatch):
    """And only the place where the name stands, not a value that is the same word."""
    def fail():
        raise ArgumentError("batchsize_id batchsize_id must be above margin_m's margin_m.",
                            "batchsize_id", "margin_m")

    assert cli.report_errors(fail) == 1
    assert capsys.readouterr().err == (
        "error: --batchsize_id batchsize_id must be above --margin-m's margin_m.\n")
    assert cli.in_flags(ArgumentError("prefix lr/prefix, ./lr: store lr/model; lr or store.",
                                      "prefix", "store", "lr", "store")) == (
        "--prefix lr/prefix, ./lr: --kv-store lr/model; --lr or --kv-store.")
    monkeypatch.setattr(sys, "argv", ["train_softmax.py", "--gamma", "nan"])
    assert cli.run_script(lambda settings: pytest.fail("called"), NraConfig, "doc") == 1
    assert capsys.readouterr().err == "error: --gamma nan is not a finite number.\n"


def test_the_prefix_must_be_writable(tmp_path):
    config.check_prefix(str(tmp_path / "new" / "model"))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    for prefix in (str(tmp_path / "file" / "model"), str(tmp_path / ("n" * 300)), "/proc/model"):
        with pytest.raises(InputError, match="^prefix .*: cannot be written"):
            config.check_prefix(prefix)


def test_the_page_of_flags_is_current():
    """Made by ``python -m unequal.training.config > docs/flags.md``."""
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == config.table()
