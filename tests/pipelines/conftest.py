"""Tiny diffusers models, made once per test run, and what teaches and learns on them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
_SPEC = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny.py"))
tiny = importlib.util.module_from_spec(_SPEC)
sys.modules["tiny_models"] = tiny
_SPEC.loader.exec_module(tiny)


@pytest.fixture(autouse=True)
def in_one_thread(one_thread):
    """For every test here."""


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """folder(kind, name, …): a tiny model, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str, name: str = "a", **how) -> Path:
        key = f"{kind}_{name}"
        if key not in made:
            made[key] = getattr(tiny, kind)(tmp_path_factory.mktemp("zoo") / key, **how)
        return made[key]

    return folder
