import json
import multiprocessing
import os
import time

import pytest
import torch
from lora_graft.jobs import cache as module
from lora_graft.jobs.cache import SubspaceCache, default_folder, subspace_key
from lora_graft.kernels.spectral import subspace


def entry(seed=0, m=40, n=30, k=8):
    return subspace(torch.randn(m, n, generator=torch.Generator().manual_seed(seed)), k)


def same(a, b):
    return (
        torch.equal(a.left, b.left)
        and torch.equal(a.values, b.values)
        and torch.equal(a.right, b.right)
        and a.energy == b.energy
    )


def never():
    raise AssertionError("should have been found")


def age(folder, seconds=module.FRESH + 60):
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_what_goes_in_comes_out_bit_by_bit(tmp_path):
    cache, value = SubspaceCache(tmp_path), entry()
    assert cache.get("a") is None
    assert same(cache.get_or_compute("a", lambda: value), value)
    assert same(SubspaceCache(tmp_path).get_or_compute("a", never), value)
    assert (cache.hits, cache.misses) == (0, 2)


def test_the_key_is_the_content_the_size_and_the_kernel_version(monkeypatch):
    keys = {
        subspace_key("digest", 64),
        subspace_key("digest", 65),
        subspace_key("other", 64),
        subspace_key("digest", "share=0.25"),
        subspace_key("digest", 64, (0, 128)),
        subspace_key("digest", 64, (128, 128)),
    }
    assert len(keys) == 6
    assert subspace_key("digest", 64, (0, 128)) in keys
    monkeypatch.setattr(module, "VERSION", "next")
    assert subspace_key("digest", 64) not in keys


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "header", "payload", "nan"])
def test_a_broken_file_is_a_miss_and_goes(tmp_path, damage):
    cache = SubspaceCache(tmp_path)
    cache.put("a", entry())
    path = tmp_path / "a.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if damage == "cut":
        data = data[:-100]
    elif damage == "empty":
        data = b""
    elif damage == "noise":
        data = os.urandom(len(data))
    elif damage == "header":
        data[:8] = (2**62).to_bytes(8, "little")
    elif damage == "payload":
        data[start + 64 : start + 1600] = bytes(1536)
    else:
        span = json.loads(data[8:start])["left"]["data_offsets"]
        data[start + span[0] : start + span[0] + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    assert cache.get("a") is None
    assert not path.exists()
    assert same(cache.get_or_compute("a", entry), entry())
    assert same(cache.get_or_compute("a", never), entry())


def test_a_file_under_the_wrong_name_is_a_miss(tmp_path):
    cache = SubspaceCache(tmp_path)
    cache.put("a", entry())
    os.rename(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert cache.get("b") is None


def test_the_folder_stays_within_its_limit_and_the_oldest_go_first(tmp_path):
    one = SubspaceCache(tmp_path)
    one.put("0", entry())
    size = (tmp_path / "0.safetensors").stat().st_size
    cache = SubspaceCache(tmp_path, limit=3 * size + 10)
    cache.put("1", entry(1))
    cache.put("2", entry(2))
    age(tmp_path)
    assert cache.get("0") is not None  # used just now
    cache.put("3", entry(3))
    assert {p.stem for p in tmp_path.iterdir()} in ({"0", "1", "3"}, {"0", "2", "3"})
    age(tmp_path)
    for i in range(4, 12):
        age(tmp_path)
        cache.put(str(i), entry(i))
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 3 * size + 10
    assert cache.get("11") is not None


def test_a_walk_over_more_than_fits_keeps_what_it_has(tmp_path):
    probe = SubspaceCache(tmp_path / "probe")
    probe.put("0", entry())
    size = (tmp_path / "probe" / "0.safetensors").stat().st_size
    cache = SubspaceCache(tmp_path / "c", limit=4 * size + 10)
    for _ in range(2):
        for i in range(8):
            cache.get_or_compute(str(i), lambda i=i: entry(i))
    assert cache.hits == 4


def test_other_processes_count_towards_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY", 1)
    a, b = SubspaceCache(tmp_path), SubspaceCache(tmp_path)
    a.put("0", entry())
    size = (tmp_path / "0.safetensors").stat().st_size
    a.limit = b.limit = 3 * size + 10
    b.put("1", entry(1))
    a.put("2", entry(2))
    a.put("3", entry(3))
    b.put("4", entry(4))
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 3 * size + 10


def test_memory_answers_without_the_disk(tmp_path):
    value = entry()
    cache = SubspaceCache(tmp_path, memory=2 * 4 * (40 * 8 + 30 * 8 + 8))
    cache.put("a", value)
    (tmp_path / "a.safetensors").unlink()
    assert same(cache.get("a"), value)
    cache.put("b", entry(1))
    cache.put("c", entry(2))
    assert cache.get("a") is None  # pushed out
    assert cache._front_size <= cache.memory


def test_a_folder_that_cannot_be_used_costs_only_the_memory_of_it(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = SubspaceCache(blocked / "inside")
    assert same(cache.get_or_compute("a", entry), entry())

    def full(*_):
        raise OSError(28, "No space left on device")

    cache = SubspaceCache(tmp_path / "c")
    monkeypatch.setattr(module.os, "replace", full)
    assert same(cache.get_or_compute("a", entry), entry())
    assert list((tmp_path / "c").iterdir()) == []


def test_a_nearly_full_disk_is_left_alone(tmp_path, monkeypatch):
    class Usage:
        free = 100

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    cache = SubspaceCache(tmp_path)
    cache.put("a", entry())
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_writers_that_died_go(tmp_path):
    (tmp_path / "x.1.part").write_bytes(b"half")
    age(tmp_path)
    (tmp_path / "y.2.part").write_bytes(b"being written")
    SubspaceCache(tmp_path).put("a", entry())
    assert {p.name for p in tmp_path.iterdir()} == {"y.2.part", "a.safetensors"}


def _work(folder, start):
    cache = SubspaceCache(folder, limit=20_000)
    for i in range(60):
        key = (start + i) % 7
        found = cache.get_or_compute(str(key), lambda key=key: entry(key))
        if not same(found, entry(key)):
            os._exit(3)


def test_concurrent_writers_never_see_half_an_entry(tmp_path):
    """Four processes, seven entries, room for about ten: every answer is the right one."""
    context = multiprocessing.get_context("spawn")
    torch.set_num_threads(1)
    workers = [context.Process(target=_work, args=(tmp_path, 2 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert all(p.suffix == ".safetensors" for p in tmp_path.iterdir())


def test_clear_removes_every_entry(tmp_path):
    cache = SubspaceCache(tmp_path)
    cache.put("a", entry())
    cache.clear()
    assert list(tmp_path.iterdir()) == []
    assert cache.get("a") is None


def test_the_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_GRAFT_CACHE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"
    assert SubspaceCache().folder == tmp_path / "mine"
    monkeypatch.delenv("LORA_GRAFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.sys, "platform", "linux")
    assert default_folder() == tmp_path / "lora_graft" / "subspaces"


class FakeBase:
    """Counts how often a digest is worked out."""

    def __init__(self, stamp="one", content="a"):
        self.stamp, self.content, self.asked = stamp, content, 0

    def digest(self, name):
        self.asked += 1
        return module.hashlib.sha256((self.content + name).encode()).hexdigest()


def test_digests_are_worked_out_once_per_file(tmp_path):
    base = FakeBase()
    first = [SubspaceCache(tmp_path).digest(base, name) for name in ("w one", "v", "w one")]
    again = [SubspaceCache(tmp_path).digest(base, name) for name in ("w one", "v", "w one")]
    assert first == again == [FakeBase().digest(name) for name in ("w one", "v", "w one")]
    assert base.asked == 2
    changed = FakeBase("two", "b")
    assert SubspaceCache(tmp_path).digest(changed, "v") == FakeBase("", "b").digest("v")


def test_a_base_without_a_stamp_is_always_asked(tmp_path):
    base = FakeBase(stamp=None)
    cache = SubspaceCache(tmp_path)
    cache.digest(base, "w")
    base.content = "b"
    assert cache.digest(base, "w") == FakeBase(content="b").digest("w")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_in_the_book_is_not_believed(tmp_path):
    base = FakeBase()
    SubspaceCache(tmp_path).digest(base, "w")
    (book,) = tmp_path.iterdir()
    whole = book.read_bytes()
    for damage in (whole[:-5], whole[10:], b"\xff\xfe" + whole, b"0" * 64 + b"\n"):
        book.write_bytes(damage)
        assert SubspaceCache(tmp_path).digest(base, "w") == FakeBase().digest("w")


def test_the_stamp_of_a_file_changes_with_it(tmp_path):
    from lora_graft.bases import open_base
    from safetensors.torch import save_file

    path = tmp_path / "base.safetensors"
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weight = torch.randn(64, 64)
    save_file({name: weight}, path)
    cache, seen = SubspaceCache(tmp_path / "cache"), {}
    for step in range(3):
        base = open_base(path)
        seen[base.stamp] = cache.digest(base, next(iter(base.weights())))
        assert cache.digest(open_base(path), next(iter(base.weights()))) == base.digest(next(iter(base.weights())))
        weight[30, 31 + step] += 1  # no sampled byte
        save_file({name: weight}, path)
        os.utime(path, ns=(step, step))
    assert len(seen) == len(set(seen.values())) == 3
