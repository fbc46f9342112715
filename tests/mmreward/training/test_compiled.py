"""Compiling: said where it cannot be done, and no weight changes its name."""

import logging

import pytest
from torch import nn

from mmreward.training import compiled


def test_without_a_compiler_the_module_runs_as_it_is(monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    module = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING):
        assert not compiled.compile_in_place(module)
    assert "C++ compiler (g++) not found" in caplog.text and module._compiled_call_impl is None


def test_without_pythons_headers_too(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(compiled.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with caplog.at_level(logging.WARNING):
        assert not compiled.compile_in_place(nn.Linear(2, 2))
    assert "python3-dev" in caplog.text


def test_weights_keep_their_names(monkeypatch):
    if compiled.lacking():
        pytest.skip(f"{compiled.lacking()} not found")
    module = nn.Sequential(nn.Linear(2, 2))
    names = list(module.state_dict())
    assert compiled.compile_in_place(module) and module._compiled_call_impl is not None
    assert list(module.state_dict()) == names
