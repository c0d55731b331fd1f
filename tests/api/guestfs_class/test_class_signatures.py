"""Every promised function exists with libguestfs's parameter names, defaults and deprecation."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from guestkit import GuestFS, Guestfs

FUNCTIONS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "api" / "functions.json").read_text()
)


def parameters(signature: str) -> list[tuple[str, bool]]:
    function = ast.parse(signature + ": ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args]
    required = len(names) - len(function.args.defaults)
    return [(name, index < required) for index, name in enumerate(names)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_the_parameters_of_libguestfs(name: str) -> None:
    found = inspect.signature(getattr(GuestFS, name)).parameters.values()
    ours = [(each.name, each.default is inspect.Parameter.empty) for each in found]
    assert ours == parameters(FUNCTIONS[name]["signature"])
    assert all(each.default in (inspect.Parameter.empty, None) for each in found)


def test_every_function_says_what_it_does_in_one_line() -> None:
    for name in FUNCTIONS:
        text = getattr(GuestFS, name).__doc__
        assert text and text.strip().splitlines()[0].rstrip().endswith((".", ")", ":")), name


def test_aliases_are_the_same_function() -> None:
    pairs = [(name, alias) for name in FUNCTIONS for alias in FUNCTIONS[name]["aliases"]]
    assert len(pairs) > 10
    for name, alias in pairs:
        assert getattr(GuestFS, alias) is getattr(GuestFS, name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_deprecated_functions_and_only_those_warn(name: str, recwarn: pytest.WarningsRecorder) -> None:
    handle = Guestfs()
    values: dict[str, Any] = {"int": 1, "bool": True, "list[str]": ["a"], "List[str]": ["a"], "bytes": b"x"}
    function = ast.parse(FUNCTIONS[name]["signature"] + ": ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    required = len(function.args.args) - len(function.args.defaults)
    arguments = [
        values.get(ast.unparse(each.annotation), "/nowhere") if each.annotation else "/nowhere"
        for each in function.args.args[1:required]
    ]
    try:
        getattr(handle, name)(*arguments)
    except RuntimeError:
        pass
    handle.close()
    old = FUNCTIONS[name]["deprecated"]
    warned = [str(each.message) for each in recwarn if each.category is DeprecationWarning]
    if not old:
        assert warned == []
    elif isinstance(old, str):
        assert warned == [f"use GuestFS.{old}() instead of GuestFS.{name}()"]
        assert recwarn.list[0].filename == __file__
    else:
        assert len(warned) == 1


def test_aliases_beyond_libguestfs() -> None:
    assert GuestFS.get_uuid is GuestFS.vfs_uuid
    assert GuestFS.get_label is GuestFS.vfs_label
    assert GuestFS.vgchange_activate_all is GuestFS.vg_activate_all
