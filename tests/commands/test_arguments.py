"""What is typed: values at their extremes, misspelt flags and sub-commands."""
import argparse
import ast
import glob
import os
import re

import pytest

import unequal
from helpers import ROOT
from unequal.commands import arguments, cli
from unequal.symbols import margins
from unequal.training import config, flags

# What no flag may answer with a traceback.
EXTREMES = ("0", "-1", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "2147483648",
            "-2147483649", "9" * 400, "9" * 5000, "x" * 100000, "", "\udcff", "a\0b", ",", "1,,2")


def options(parser):
    """The arguments of a parser that take a value."""
    return [action for action in parser._actions
            if action.nargs != 0 and action.option_strings and action.dest != "help"]


def refusals(parser, action, required, capsys):
    """The messages with which a flag refuses extremes; each must be one line and end with 2."""
    flag = action.option_strings[-1]
    for value in EXTREMES:
        try:
            parser.parse_args(required + [flag + "=" + value])
        except SystemExit as stopped:
            message = capsys.readouterr().err
            assert stopped.code == 2
            assert message.startswith("error: argument ") and flag in message
            assert message.count("\n") == 1 and len(message) < 700
            yield value


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_extreme_values_are_taken_or_refused_in_one_line(name, capsys):
    parser = cli.build_parser([name])
    command = parser._subparsers._group_actions[0].choices[name]
    if name == "train":  # its flags are the scripts', see below
        return
    required = [name]
    for action in command._actions:
        if action.option_strings and action.required:
            required += [action.option_strings[-1], "1"]
    required += [sorted(action.choices)[0] if action.choices else "1"
                 for action in command._actions if not action.option_strings]
    for action in options(command):
        refused = list(refusals(parser, action, required, capsys))
        if action.dest in margins.Margin._fields:  # checked later, as those of the scripts
            continue
        if action.type is not None:
            assert {"x" * 100000, "", "\udcff", "a\0b"} <= set(refused)
        if getattr(action.type, "__name__", "") in ("int", "float"):
            assert {"9" * 400, "9" * 5000, "nan", "inf", "1e-320"} <= set(refused)


@pytest.mark.parametrize("script", sorted(config.SCRIPTS))
def test_extreme_values_of_the_scripts(script, capsys):
    """One sentence that names the flag, from the parser (2) or from the configuration (1)."""
    made = config.SCRIPTS[script]
    parser = flags.parser("", made, arguments.Parser)
    refused = 0
    for action in options(parser):
        flag = action.option_strings[0]
        unreadable = set(refusals(parser, action, [], capsys))
        for value in set(EXTREMES) - unreadable:
            typed = parser.parse_args([flag + "=" + value])
            code = cli.report_errors(lambda typed=typed: config.from_options(made, typed) and None)
            message = capsys.readouterr().err
            if code:
                refused += 1
                assert code == 1 and message.startswith("error: " + flag + " ")
                assert message.count("\n") == 1 and "unexpected" not in message
    assert refused > 150


@pytest.mark.parametrize("words, message", [
    (["trian"], "unknown command 'trian'"),
    (["verfy", "--model", "m,1"], "unknown command 'verfy'; did you mean verify?"),
    (["train", "sofmax"], "unknown command 'sofmax'; did you mean softmax?"),
    (["train", "softmax", "--margn-m", "1"], "--margn-m; did you mean --margin-m?"),
    (["train"], "the following arguments are required: STEP"),
    (["verify", "--model", "m,1", "--bootstrap", "pair"],
     "'pair' is unknown; known are pairs, folds, none; did you mean pairs?"),
    (["verify", "--modle", "m,1"], "unrecognized arguments: --modle; did you mean --model?"),
    (["verify", "--model", "m,1", "--batchsize=3"], "--batchsize; did you mean --batch-size?"),
    (["verify", "--model", "m,1", "-target", "x"], "-target x; did you mean --target?"),
    (["verify", "--model", "m,1", "--zzz"], "unrecognized arguments: --zzz."),
    (["verify"], "the following arguments are required: --model."),
])
def test_what_is_misspelt_gets_a_suggestion(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_job_keeps_its_own_flags():
    """After `--` they are those of the command that is launched."""
    typed = cli.build_parser(["launch"]).parse_args(
        ["launch", "-n", "2", "--", "python", "train_softmax.py", "--lrr", "1"])
    assert typed.command[-2:] == ["--lrr", "1"]


@pytest.mark.parametrize("text, size", [
    ("112", (112, 112)), ("112x96", (112, 96)), ("112,96", (112, 96))])
def test_sizes(text, size):
    assert arguments.picture_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "112x", "x", "1x2x3", "-5", "5000", "1e3", "9" * 5000])
def test_what_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size such as"):
        arguments.picture_size(text)


def test_only_the_command_line_speaks_of_flags():
    """A library function names its argument; `unequal.commands.cli.in_flags` makes the flag."""
    package = os.path.dirname(unequal.__file__)
    paths = [path for room in ("data", "models", "system", "synthetic")
             for path in glob.glob(os.path.join(package, room, "*.py"))]
    paths += glob.glob(str(ROOT / "symbols" / "*.py")) + glob.glob(str(ROOT / "eval" / "*.py"))
    assert len(paths) > 30
    for path in paths:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        texts = {id(node.body[0].value) for node in ast.walk(tree)  # documentation may
                 if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
                 and node.body and isinstance(node.body[0], ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and (
                    id(node) not in texts):
                said = re.sub("`[^`]*`", "", node.value)  # a command to type
                assert not re.search(r"(^|\W)--[a-z]", said), (path, node.lineno)
