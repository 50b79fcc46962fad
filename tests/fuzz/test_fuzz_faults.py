"""Calls to the system that fail, and kills between them, a fixed part of benchmarks/faults.py."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import faults
from every_job import JOBS
from lora_graft.errors import AdapterError
from lora_graft.io import atomic, safetensors
from lora_graft.io.outputs import staged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
EVERY = {"transfer": 9, "merge": 5, "resize": 4, "convert": 3, "discriminator": 6, "batch": 4}
EVERY |= {"transfer --all": 40, "distill": 70}  # of the others every point


@pytest.mark.parametrize("name", JOBS)
def test_old_or_whole_new_and_the_next_run_as_if_nothing_had_been(name, tmp_path, one_thread):
    tried, findings = faults.break_everywhere(JOBS[name], tmp_path, every=EVERY.get(name, 1))
    print(f"{name}: {tried.points} points, {tried.faults} faults, {tried.killed} of them kills")
    assert not findings
    assert tried.killed >= 8 and tried.worked + tried.failed >= 16


def failing(monkeypatch, name, number):
    """os.<name> fails with this error."""

    def fail(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr(atomic.os, name, fail)


def test_without_hard_links_a_name_is_claimed_and_given_back(tmp_path, monkeypatch):
    import errno

    failing(monkeypatch, "link", errno.EPERM)
    path = tmp_path / "a.safetensors"
    safetensors.save(path, {"a": torch.ones(2)})
    assert safetensors.load(path)[0]["a"].tolist() == [1, 1]
    with pytest.raises(AdapterError, match="exists already"):
        safetensors.save(path, {"a": torch.zeros(2)})
    failing(monkeypatch, "replace", errno.EIO)
    with pytest.raises(AdapterError, match="cannot be written"):
        safetensors.save(tmp_path / "b.safetensors", {"a": torch.ones(2)})
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_being_written_is_no_leftover(tmp_path):
    left = tmp_path / ".x.safetensors.0123456789ab.part"
    left.write_bytes(b"of a process that was killed")
    mine, notes = tmp_path / ".notes.part", tmp_path / ".x.0123.part"
    mine.touch(), notes.touch()
    with atomic.whole(tmp_path / "a") as file:
        assert not left.exists() and mine.exists() and notes.exists()
        file.write(b"1")
        (scratch,) = tmp_path.glob(".a.*.part")
        atomic._swept.clear()  # as another process, which sweeps while this one writes
        with atomic.whole(tmp_path / "b") as other:
            other.write(b"2")
        assert scratch.exists()
    assert (tmp_path / "a").read_bytes() == b"1" and (tmp_path / "b").read_bytes() == b"2"


def test_a_report_does_not_take_a_name_that_somebody_took_meanwhile(tmp_path):
    report, main = tmp_path / "r.md", tmp_path / "x"
    with pytest.raises(Exception, match="could not write"), staged({report: b"mine"}, main=main, overwrite=False):
        main.write_bytes(b"adapter")
        report.write_bytes(b"theirs")
    assert report.read_bytes() == b"theirs" and not main.exists()
