"""The engine Ray on two simulated nodes: the same bytes as local processes; a dead node costs nothing."""

from __future__ import annotations

import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from lora_graft.cli.menus import Device, EngineName
from lora_graft.errors import GraftError, SettingsError
from lora_graft.jobs import ray_tasks
from lora_graft.jobs.merge.order import Order, carry_out
from lora_graft.jobs.orders import carry_out_all
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
    """Name → content of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def test_a_dead_node_costs_nothing_and_the_bytes_are_those_of_local_processes(cluster, engine, family, job, tmp_path):
    """12 LoRAs and a broken one; a second node comes, and is killed when some are done. None lost, none twice."""
    shelf = tmp_path / "loras"
    shelf.mkdir()
    for i in range(12):
        file = family.path(("frame_a", "slant_a", "stripes_a")[i % 3])
        (shelf / f"{i}.safetensors").write_bytes(file.read_bytes())
    (shelf / "broken.safetensors").write_bytes(b"none")
    second = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    told, killed = [], []

    def each(outcome):
        told.append(outcome)
        if len(told) == 4:
            killed.append(cluster.remove_node(second, allow_graceful=False))

    on_ray = {file: tmp_path / "ray" / file.name for file in shelf.iterdir()}
    done = transfer_many(on_ray, job, engine=engine, each=each)
    assert killed and sorted(told, key=str) == sorted(done, key=str) and len(done) == 13
    assert [o.file.name for o in done if o.status != "transferred"] == ["broken.safetensors"]
    assert "broken.safetensors" in next(o.error for o in done if o.status == "failed")
    here = {file: tmp_path / "here" / file.name for file in on_ray}
    transfer_many(here, job, processes=1)
    assert len(files_in(tmp_path / "here")) == 12 and files_in(tmp_path / "ray") == files_in(tmp_path / "here")
    assert len(list((tmp_path / "ray").iterdir())) == 24, "a report beside each, and nothing else"
    for suffix in (".safetensors", ".md"):
        on_ray[shelf / "0.safetensors"].with_suffix(suffix).unlink()
    again = [o.status for o in transfer_many(on_ray, job, engine=engine)]
    assert sorted(again) == ["failed", *["present"] * 11, "transferred"], "what is missing or failed is done again"


def test_merges_are_the_same(engine, family, tmp_path):
    a, b = family.path("frame_a"), family.path("slant_a")

    def orders(folder):
        given = {"one": ((a, 1.0, 1.0), (b, 0.5, 0.5)), "none": ((tmp_path / "missing.safetensors", 1.0, 1.0),)}
        return [Order(loras, tmp_path / folder / f"{name}.safetensors") for name, loras in given.items()]

    assert [o.status for o in carry_out_all(orders("ray"), carry_out, engine=engine)] == ["done", "failed"]
    assert [o.status for o in carry_out_all(orders("ray")[:1], carry_out, engine=engine)] == ["present"]
    carry_out_all(orders("here"), carry_out, engine=LocalEngine(1))
    assert files_in(tmp_path / "ray") == files_in(tmp_path / "here") != {}


def test_the_commands_give_a_cluster_absolute_names(engine, family, tmp_path, monkeypatch):
    """Workers stand in another folder: `transfer --all` and a recipe with relative names, each by the engine."""
    from lora_graft.cli import engines, recipe, transfer
    from lora_graft.cli.app import app
    from typer.testing import CliRunner

    for command in (transfer, recipe):
        monkeypatch.setattr(command, "engine_of", lambda *given: nullcontext(engine))
    assert engines.device_for(EngineName["ray"], 0.5, Device["auto"]) == "cuda"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_GRAFT_CACHE", "cache")
    for name in ("a", "b", "frame_a"):
        Path(f"{name}.safetensors").symlink_to(family.path(name))
    bases = ["--source", "a.safetensors", "--target", "b.safetensors", "-o", "out", "--method", "copy"]
    done = CliRunner().invoke(app, ["transfer", "--all", "frame*.safetensors", "--engine", "ray", *bases])
    assert done.exit_code == 0 and "1 transferred, 0 failed." in done.output, done.output
    Path("recipe.yaml").write_text(
        "output: made\nbases: {a: a.safetensors, b: b.safetensors}\n"
        "transfers: [{loras: frame*.safetensors, source: a, targets: b, methods: copy}]\n"
        "merges: [{name: two, loras: [made/b/copy/frame_a.safetensors, frame_a.safetensors], method: concat}]\n"
    )
    done = CliRunner().invoke(app, ["recipe", "recipe.yaml", "--engine", "ray"])
    assert done.exit_code == 0 and "2 made, 0 failed." in done.output, done.output
    assert Path("made/b/copy/frame_a.safetensors").read_bytes() == Path("out/frame_a.safetensors").read_bytes()
    assert Path("made/merged/two.safetensors").is_file()


def test_an_item_that_always_kills_its_worker_fails_alone(engine, monkeypatch):
    monkeypatch.setattr(ray_tasks, "RETRIES", 1)
    deadly, harmless = int(signal.SIGKILL), int(signal.SIGCHLD)
    tasks = RayTasks(os.chdir, os.curdir)
    ends = {item: why for item, _, why in tasks.each(signal.raise_signal, [deadly, harmless], silent)}
    assert ends[harmless] == "" and "ended from outside 2 times" in ends[deadly]


def test_no_more_tasks_are_under_way_than_the_cluster_is_given(engine, tmp_path, monkeypatch):
    """Back-pressure: with one core, four at most are sent ahead of those that are done."""
    import ray

    for _ in range(300):  # a busy machine takes its time to notice that another test's node is dead
        if ray.cluster_resources().get("CPU") == 1:
            break
        time.sleep(0.2)
    sent, most = [], []
    ready = ray_tasks._ready
    monkeypatch.setattr(
        ray_tasks, "_ready", lambda ray, under_way: most.append(len(under_way)) or ready(ray, under_way)
    )
    for item, _, why in RayTasks(os.chdir, os.curdir).each(os.path.basename, map(str, range(30)), silent):
        assert why == ""
        sent.append(item)
    assert sorted(sent, key=int) == [str(i) for i in range(30)] and max(most) == ray_tasks.AHEAD


def test_a_shared_engine_keeps_its_cache(engine, family, job, tmp_path):
    with pytest.raises(SettingsError, match="must be kept"):
        transfer_many({family.path("frame_a"): tmp_path / "x.safetensors"}, job, engine=engine, keep_cache=False)


def test_the_package_travels_without_what_is_not_its_code(tmp_path):
    made = travelling(tmp_path)
    files = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert {"__init__.py", "jobs/ray_tasks.py", "kernels/spectral.py", "family/model.py"} <= files
    assert all(name.endswith(".py") and not name.startswith(("tests/", "docs/", ".")) for name in files)


def test_no_cluster_is_told(monkeypatch):
    with pytest.raises(GraftError, match="no Ray cluster at 127.0.0.1:1 to be reached"):
        RayEngine("127.0.0.1:1").__enter__()
