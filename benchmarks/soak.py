"""Thousands of prompts through a real ComfyUI with this pack's nodes: does anything grow?

    python benchmarks/soak.py
    python benchmarks/soak.py --prompts 60 --warm 24 --every 6

Starts a ComfyUI of its own (COMFYUI_PATH, else ~/comfy/ComfyUI) on the CPU with the example models. Prompts take turns:
transfer and use, merge, resize, similarity, save, distil; each has inputs of its own, so that the host remembers none.
After every twelfth prompt it notes the process's resident memory, open files, threads, children and files in its
folder of temporary files. Prints a table, and exits with 1 when the median of the last quarter of what was noted lies
above the highest of the first quarter after the warm-up: memory by more than 5 % and 40 MB, open files
by more than two, any of the others at all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "host")]
JOBS = 6  # that take turns
# Times what it was, and so much more; of the others nothing. A connection of the page may just be closing.
SLACK = {"resident, MB": (1.05, 40.0), "open files": (1.0, 2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--warm", type=int, default=100, help="prompts before the first that counts (default: 100)")
    parser.add_argument("--every", type=int, default=2 * JOBS, help="prompts between two looks (default: 12)")
    chosen = parser.parse_args()
    if chosen.every % JOBS:
        parser.error(f"--every must be a multiple of {JOBS}, so that each look follows the same job")
    if chosen.prompts < 2 * chosen.warm:
        parser.error("--prompts must be at least twice --warm")
    import host as comfyui
    from lora_graft.family import materialize
    from server import PACK_NAME, Host

    folder, python = comfyui.find()
    with tempfile.TemporaryDirectory(prefix="soak-") as base:
        os.environ["TMPDIR"] = str(Path(base) / "tmp")
        Path(os.environ["TMPDIR"]).mkdir()
        host = Host(folder, python, Path(base) / "comfyui", {PACK_NAME: HERE.parent})
        materialize.materialize(host.models)
        host.start()
        try:
            host.wait()
            looks = soak(host, chosen.prompts, chosen.every)
        finally:
            host.stop()
    sys.exit(1 if told(looks, chosen.warm) else 0)


def soak(host, prompts: int, every: int) -> dict[int, dict[str, float]]:
    """What is seen after so many prompts."""
    looks = {}
    for number in range(1, prompts + 1):
        result = host.run(graph(number), seconds=600)
        if result.status != "success":
            raise SystemExit(f"prompt {number}: {result.message[:2000]}")
        _forget(host)
        if number % every == 0:
            looks[number] = look(host.process.pid)
            print(number, looks[number], file=sys.stderr, flush=True)
    return looks


def graph(number: int):
    """One of the jobs, with a strength that no other prompt has."""
    from distill_graph import DistillGraph
    from graphs import NODE

    graph, strength = DistillGraph(), 1 + number / 10_000
    frame, slant = graph.lora("family_frame_a"), graph.lora("family_slant_a")
    source, target = graph.unet("family_a"), graph.unet(("family_b", "family_s")[number % 2])
    job = number % JOBS
    if job == 0:
        node = graph.transfer(frame, source, target, method="lora-x", strength=strength)
        graph.add("PreviewImage", images=[node, 4])
        graph.pictures([node, 1])
    elif job == 1:
        loras = {"loras.lora_0": frame, "loras.lora_1": slant}
        node = graph.add(NODE + "MergeLoRAs", strengths=f"{strength}, 0.7", **MERGING, **loras)
        graph.save([node, 0], f"soak/{number}")
    elif job == 2:
        node = graph.add(NODE + "ResizeLoRA", lora=frame, rule="ratio", amount=1 + strength, max_rank=0)
        graph.save([node, 0], f"soak/{number}")
    elif job == 3:
        node = graph.similarity(source, target, k=4 + number % 13)
        graph.add("PreviewImage", images=[node, 2])
    elif job == 4:
        graph.save(graph.out(NODE + "LoadLoRA", lora_name="family_frame_a.safetensors"), f"soak/{number}", dtype="bf16")
        node = graph.transfer(frame, source, target, strength=strength)
        graph.save([node, 0], f"soak/{number}")
    else:
        models = graph.models("family_a", "family_s")
        data = graph.dataset(models, frame, count=4, steps=2, batch=4, seed=number)
        node = graph.distill([data, 0], models, frame, seed=number, steps=2, batch=4, lessons=4)
        graph.save([node, 0], f"soak/{number}")
    return graph


MERGING = dict(method="svd", rank="max", k=4, energy=0.9, density=0.5, seed=0)
MERGING |= dict(units="balanced", parameter_reweighting=True, output_reweighting=True)


def _forget(host) -> None:
    """Take away what the prompt saved, and its place in the host's history, which the host keeps by itself."""
    host.post("/history", {"clear": True})
    for name in ("output", "temp"):
        for path in sorted((host.base / name).rglob("*"), reverse=True):
            if path.is_file():
                path.unlink()


def look(process: int) -> dict[str, float]:
    """What a process holds."""
    about = Path(f"/proc/{process}")
    status = dict(line.split(":", 1) for line in (about / "status").read_text().splitlines())
    return {
        "resident, MB": int(status["VmRSS"].split()[0]) / 1024,
        "open files": len(list((about / "fd").iterdir())),
        "threads": int(status["Threads"]),
        "children": len((about / "task" / str(process) / "children").read_text().split()),
        "temporary files": sum(path.is_file() for path in Path(os.environ["TMPDIR"]).rglob("*")),
    }


def told(looks: dict[int, dict[str, float]], warm: int) -> list[str]:
    """Prints the table; what has risen."""
    counted = [number for number in looks if number >= warm]
    quarter = max(1, len(counted) // 4)
    early, late = ([looks[number] for number in part] for part in (counted[:quarter], counted[-quarter:]))
    print(f"| prompts | {' | '.join(looks[counted[0]])} |\n|--:|" + "--:|" * len(early[0]))
    for number in list(looks)[:: max(1, len(looks) // 12)]:
        print(f"| {number:,} | " + " | ".join(f"{value:,.0f}" for value in looks[number].values()) + " |")
    risen = []
    for name in early[0]:
        before, after = max(look[name] for look in early), median(look[name] for look in late)
        times, more = SLACK.get(name, (1.0, 0.0))
        if after > before * times and after > before + more:
            risen.append(f"{name}: at most {before:,.0f} after the warm-up, {after:,.0f} at the end")
    print("\n".join(risen) or "Nothing has risen.")
    print(f"({time.strftime('%Y-%m-%d')})")
    return risen


if __name__ == "__main__":
    main()
