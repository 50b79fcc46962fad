"""The engine Ray on two simulated nodes: the same bytes as local processes; a dead node costs nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from lora_graft.errors import GraftError, SettingsError
from lora_graft.jobs.merge.many import Order, merge_many
from lora_graft.jobs.processes import LocalEngine
from lora_graft.jobs.progress import silent
from lora_graft.jobs.ray_tasks import RayEngine, RayTasks, travelling
from lora_graft.jobs.transfer.many import Job, transfer_many
from lora_graft.jobs.transfer.transfer import TransferSettings
from lora_graft.kernels.spectral import SubspaceSize

pytest.importorskip("ray", reason="Ray is not installed (pip install ray)")

MEMORY = 80 << 20


@pytest.fixture(scope="module")
def cluster():
    """A head without cores, and a node with one; nobody is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1, object_store_memory=MEMORY)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    with RayEngine(cluster.address) as engine:
        yield engine


@pytest.fixture
def job(family, tmp_path) -> Job:
    settings = TransferSettings("lora-x", SubspaceSize(k=8))
    return Job(family.path("a"), family.path("b"), settings, report=".md", cache=tmp_path / "cache")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_a_dead_node_costs_nothing_and_the_bytes_are_those_of_local_processes(cluster, engine, family, job, tmp_path):
    """24 LoRAs; a second node comes, and is killed when a third is done. One file is broken."""
    loras = {f"{i}": family.path(("frame_a", "slant_a", "stripes_a")[i % 3]) for i in range(24)}
    shelf = tmp_path / "loras"
    shelf.mkdir()
    for name, file in loras.items():
        (shelf / f"{name}.safetensors").write_bytes(file.read_bytes())
    (shelf / "broken.safetensors").write_bytes(b"none")
    second = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    told, killed = [], []

    def each(outcome):
        told.append(outcome)
        if len(told) > 8 and not killed:
            killed.append(outcome)
            cluster.remove_node(second, allow_graceful=False)

    on_ray = {file: tmp_path / "ray" / file.name for file in shelf.iterdir()}
    done = transfer_many(on_ray, job, engine=engine, each=each)
    assert [o.status for o in done if o.file.name != "broken.safetensors"] == ["transferred"] * 24 and killed
    assert sum(o.status == "failed" for o in done) == 1 and sorted(told, key=str) == sorted(done, key=str)
    here = {file: tmp_path / "here" / file.name for file in list(loras.values())[:3]}
    assert {o.status for o in transfer_many(here, job, processes=1)} == {"transferred"}
    for number, file in enumerate(here):
        for i in range(number, 24, 3):
            assert (tmp_path / f"ray/{i}.safetensors").read_bytes() == here[file].read_bytes()
    assert len(list((tmp_path / "ray").iterdir())) == 48, "a report beside each, and nothing else"
