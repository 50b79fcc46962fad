"""What a LoRA costs, stage by stage, and what a cluster does when its machines die.

    python benchmarks/scale.py stages
    python benchmarks/scale.py cluster --loras 2000
    python benchmarks/scale.py cluster --loras 60

`stages` takes the example family and made-up checkpoints of real size (as in benchmarks/transfer.py) and prints, for
each model, the processor seconds of one thread for reading a LoRA, measuring the bases, transferring and writing, and
the bytes that pass. Processor seconds hardly change when the machine is busy; the figures are of one process.

`cluster` simulates a Ray cluster on this machine. It carries out a recipe over the example family, LoRAs × 3 bases,
once with local processes and once on two nodes; at a third of the way one node is killed and another added, at two
thirds the head is killed: the command ends, a new cluster is started, and the same command goes on. Then every file is
compared with the local one, and the manifest is searched for outputs that are missing or made twice. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RECIPE = """
output: {output}
cache: cache
bases: {{a: family_a.safetensors, b: family_b.safetensors, c: family_c.safetensors, s: family_s.safetensors}}
transfers:
  - {{loras: loras/*.safetensors, source: a, targets: [b, c, s], methods: lora-x, k: 16}}
"""
BASES = 10  # targets, in the arithmetic
MEMORY = 80 << 20  # of each node's object store; the tasks pass names and figures only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stages", "cluster"))
    parser.add_argument("--models", nargs="+", default=["family", "sd15", "sdxl"], help="stages: quick is another")
    parser.add_argument("--k", type=int, default=128, help="stages: size of the subspaces")
    parser.add_argument("--folder", type=Path, help="stages: where the checkpoints go (SDXL-sized: 9 GB)")
    parser.add_argument("--loras", type=int, default=60, help="cluster: how many")
    chosen = parser.parse_args()
    if chosen.what == "stages":
        stages(chosen)
    else:
        cluster(chosen.loras)


# Stages.


def stages(chosen: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    print(f"k = {chosen.k}, one thread, torch {torch.__version__}; processor seconds.\n")
    heads = ("model", "modules", "read", "plan", "measure both bases, once", "lora-x", "first copy", "copy", "write")
    heads += ("LoRA in, MB", "LoRA out, MB", "two bases, MB", "subspaces of both, MB")
    print(f"| {' | '.join(heads)} |\n|---|{'--:|' * (len(heads) - 1)}")
    measured = {}
    for model in chosen.models:
        with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
            modules, seconds, sizes = measured[model] = stages_of(model, chosen.k, Path(folder))
        figures = [*seconds.values(), *(size / 1e6 for size in sizes)]
        print(f"| {model} | {modules} | {' | '.join(f'{figure:.3g}' for figure in figures)} |", flush=True)
    print(f"\n{BASES} target bases; hours of one core.\n")
    print("| model | method | LoRAs | measuring the bases | LoRAs | in all | read from the cache, GB | written, GB |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for model, (_, seconds, sizes) in measured.items():
        for method in ("lora-x", "copy"):
            for loras in (10, 1_000, 1_000_000):
                print(arithmetic(model, method, loras, seconds, sizes))


def arithmetic(model: str, method: str, loras: int, seconds: dict[str, float], sizes: tuple[int, ...]) -> str:
    """So many LoRAs for BASES targets: what was measured once, multiplied."""
    once = (BASES + 1) * seconds["measure"] / 2 if method == "lora-x" else BASES * seconds["first copy"]
    each = 2 * seconds["read"] + seconds["plan"] + seconds[method] + seconds["write"]  # read to plan, and to transfer
    cached = loras * BASES * sizes[3] if method == "lora-x" else 0
    hours = [once / 3600, loras * BASES * each / 3600, (once + loras * BASES * each) / 3600]
    cells = [f"{value:,.2g}" if value < 100 else f"{value:,.0f}" for value in hours]
    cells += [
        f"{value / 1e9:,.2g}" if value < 1e11 else f"{value / 1e9:,.0f}" for value in (cached, loras * BASES * sizes[1])
    ]
    return f"| {model} | {method} | {loras:,} | {' | '.join(cells)} |"


def stages_of(model: str, k: int, folder: Path) -> tuple[int, dict[str, float], tuple[int, ...]]:
    """(modules, seconds by stage, bytes) of one model, by the worker that `transfer --all` and recipes use."""
    from lora_graft import adapters
    from lora_graft.jobs.transfer.many import Job, Worker
    from lora_graft.jobs.transfer.transfer import TransferSettings, transfer
    from lora_graft.kernels.spectral import SubspaceSize

    source, target, lora = files_of(model, folder)
    seconds: dict[str, float] = {}

    def timed(name, work):
        begun = time.process_time()
        made = work()
        seconds[name] = time.process_time() - begun
        return made

    job = Job(source, target, TransferSettings("lora-x", SubspaceSize(k=k)), cache=folder / "cache")
    worker = Worker(job)
    adapters.read(lora)  # what is loaded once is loaded
    adapter = timed("read", lambda: adapters.read(lora))
    weights = timed("plan", lambda: worker.weights_of(lora))
    seconds["plan"] -= seconds["read"]  # which comes with it
    timed("measure", lambda: [worker.measure(each) for each in weights])
    moved = timed("lora-x", lambda: transfer(adapter, worker.source, worker.target, job.settings, cache=worker.cache))
    plain = TransferSettings("copy")
    for name in ("first copy", "copy"):  # the first one of a process reads both bases, to say how far they lie apart
        timed(name, lambda: transfer(adapter, worker.source, worker.target, plain, cache=worker.cache))
    out = folder / "out.safetensors"
    timed("write", lambda: adapters.write(moved.adapter, out, provenance=moved.provenance))
    sizes = (lora.stat().st_size, out.stat().st_size, source.stat().st_size + target.stat().st_size)
    sizes += (sum(file.stat().st_size for file in (folder / "cache").iterdir()),)
    return len(adapter.modules), seconds, sizes


def files_of(model: str, folder: Path) -> tuple[Path, Path, Path]:
    """(source, target, LoRA) of the example family, or made up."""
    if model == "family":
        files = family(folder)
        return files["family_a"], files["family_b"], files["family_frame_a"]
    from unets import make_lora, make_pair

    return (*make_pair(model, folder), make_lora(model, folder / "lora.safetensors", seed=0))


def family(folder: Path) -> dict[str, Path]:
    from lora_graft.family.materialize import materialize

    return materialize(folder / "models", text_encoder=False)


# A cluster.


def cluster(loras: int) -> None:
    from lora_graft.jobs.ray_tasks import ray_library

    ray_library()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shelf(folder, loras)
        total = 3 * loras
        local = timed_command(folder, "local", ["--jobs", "2"])
        print(
            f"{total} transfers ({loras} LoRAs × 3 bases); load average {os.getloadavg()[0]:.1f} of {os.cpu_count()}\n"
        )
        print("| run | seconds | transfers | done twice | missing | other bytes than locally |")
        print("|---|--:|--:|--:|--:|--:|")
        print(row("local, 2 processes", local, folder, "local", total), flush=True)
        for name, nodes in (("ray1", 1), ("ray2", 2)):
            running = started(nodes)
            seconds = timed_command(folder, name, ["--engine", "ray", "--address", running.address])
            running.shutdown()
            print(row(f"Ray, {nodes} node{'s' * (nodes > 1)} of one core", seconds, folder, name, total), flush=True)
        begun = time.monotonic()
        told = broken_run(folder, total)
        label = "Ray, a node killed, one added, the head killed, a new cluster"
        print(row(label, time.monotonic() - begun, folder, "broken", total))
        print(f"\n{told}\n\n{overhead()}")


def shelf(folder: Path, loras: int) -> None:
    """The recipe's files: LoRAs that are three, under many names; the name is part of the provenance."""
    files = family(folder)
    for name in ("family_a", "family_b", "family_c", "family_s"):
        os.link(files[name], folder / f"{name}.safetensors")
    (folder / "loras").mkdir()
    for number in range(loras):
        file = files[f"family_{('frame', 'slant', 'stripes')[number % 3]}_a"]
        os.link(file, folder / "loras" / f"{number:05}.safetensors")


def command(folder: Path, output: str, more: list[str]) -> list[str]:
    file = folder / f"{output}.yaml"
    file.write_text(RECIPE.format(output=output))
    return [sys.executable, "-m", "lora_graft.cli", "recipe", str(file), *more]


def timed_command(folder: Path, output: str, more: list[str]) -> float:
    begun = time.monotonic()
    done = subprocess.run(command(folder, output, more), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return time.monotonic() - begun


def started(nodes: int):
    """A cluster of a head without cores and nodes of one."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        made.add_node(num_cpus=1, object_store_memory=MEMORY)
    return made


def broken_run(folder: Path, total: int) -> str:
    """The run that loses a node, then the head, and goes on elsewhere; what it said, in a sentence."""
    running = started(2)
    first = subprocess.Popen(
        command(folder, "broken", ["--engine", "ray", "--address", running.address]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(folder, total // 3, first)
    running.remove_node(next(iter(running.worker_nodes)), allow_graceful=False)
    running.add_node(num_cpus=1, object_store_memory=MEMORY)
    wait_for(folder, 2 * total // 3, first)
    for processes in running.head_node.all_processes.values():
        for one in processes:
            one.process.send_signal(signal.SIGKILL)
    begun, at = time.monotonic(), len(done(folder, "broken"))
    try:
        first.wait(timeout=300)
    except subprocess.TimeoutExpired:
        first.terminate()
        first.wait()
    ended = time.monotonic() - begun
    running.shutdown()
    said = [line for line in (first.stderr.read() if first.stderr else "").splitlines() if line.strip()]
    last = next((line for line in said if line.startswith("Error:")), said[-1] if said else "")
    running = started(2)
    timed_command(folder, "broken", ["--engine", "ray", "--address", running.address])
    running.shutdown()
    return (
        f"The head was killed when {at} of {total} were done; the command ended {ended:.0f} s later with status "
        f"{first.returncode}: {last[:200]!r}. The same command, on a new cluster, did the rest."
    )


def wait_for(folder: Path, count: int, process: subprocess.Popen) -> None:
    while len(done(folder, "broken")) < count:
        if process.poll() is not None:
            raise SystemExit(f"the run ended by itself: {process.stderr.read() if process.stderr else ''}")
        time.sleep(0.1)


def done(folder: Path, output: str) -> list[str]:
    """The outputs that a manifest calls done, as often as it does."""
    file = folder / output / "manifest.jsonl"
    if not file.exists():
        return []
    lines = file.read_bytes().splitlines(keepends=True)
    events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [event["files"][0] for event in events if event["event"] == "done"]


def row(label: str, seconds: float, folder: Path, output: str, total: int) -> str:
    counts = Counter(done(folder, output))
    files = {p.relative_to(folder / output): p for p in (folder / output).rglob("*.safetensors")}
    others = sum(path.read_bytes() != (folder / "local" / name).read_bytes() for name, path in files.items())
    twice = sum(count > 1 for count in counts.values())
    return f"| {label} | {seconds:.0f} | {len(counts)} | {twice} | {total - len(files)} | {others} |"


def overhead() -> str:
    """What a task costs that does nothing."""
    from lora_graft.jobs.processes import LocalEngine
    from lora_graft.jobs.progress import silent
    from lora_graft.jobs.ray_tasks import RayEngine

    found, items = {}, list(range(2000))
    running = started(2)
    with RayEngine(running.address) as ray:
        for name, engine in (("local", LocalEngine(2)), ("Ray", ray)):
            with engine.crew(len(items), os.chdir, os.curdir, device="cpu") as crew:
                for _ in crew.each(abs, range(-100, 0), silent):
                    pass
                begun, used = time.monotonic(), time.process_time()
                for _ in crew.each(abs, items, silent):
                    pass
                found[name] = (time.monotonic() - begun, time.process_time() - used)
    running.shutdown()
    told = (f"{name} {1e3 * t / len(items):.2f} ms ({1e3 * cpu / len(items):.2f} ms of processor time in the "
            "calling process)" for name, (t, cpu) in found.items())  # fmt: skip
    return f"An empty task: {', '.join(told)}."


if __name__ == "__main__":
    main()
