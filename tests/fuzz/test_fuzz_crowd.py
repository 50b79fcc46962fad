"""Several processes at once, odd folders and clocks: benchmarks/crowd.py with fewer of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from crowd import CASES
from lora_graft.batch.manifest import NAME, Manifest
from lora_graft.errors import GraftError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")
pytest.importorskip("httpx")
pytest.importorskip("websockets")


@pytest.mark.parametrize("name", CASES)
def test_at_once(name, tmp_path, one_thread):
    assert not CASES[name](tmp_path.resolve(), 4)


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_a_manifest_cut_in_its_first_line_goes_on(tmp_path, cut):
    path = tmp_path / NAME
    with Manifest(path) as manifest:
        manifest.write("batch", jobs=1)
    path.write_bytes(path.read_bytes()[:cut])
    with Manifest(path) as manifest:
        manifest.write("batch", jobs=2)
    assert path.read_bytes().count(b"\n") == 1 and b'"jobs": 2' in path.read_bytes()
    path.write_bytes(b"a list of mine")
    with pytest.raises(GraftError, match="not the manifest"):
        Manifest(path)
    assert path.read_bytes() == b"a list of mine"
