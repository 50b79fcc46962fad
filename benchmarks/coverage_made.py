"""LoRA files that other projects write themselves, through every step: python benchmarks/coverage_made.py [word …]

LyCORIS, PEFT and diffusers put an adapter of random values on a small model of diffusers' own class, save it with their
own code and merge it into the weights with their own code (coverage_makers.py); that merge is the truth. The file is
read here, converted to each layout, merged with itself and resized to a rank it has already, with the model as its
base. After each step the change of every weight must be the maker's: as our reader has it, and as the loaders of
LyCORIS, diffusers, PEFT and ComfyUI make it of the file that was written.

Cells: "ok"; "none": the loader has no name for any of the file's keys; "4 of 9": it applies four of nine weights, which
come out right; "fails": it stops with an error; a refusal in few words; "otherwise": it makes something else of the
maker's own file ("drops magnitudes": of a DoRA); "as before": of the written one it makes the same; "as ComfyUI": our
reader follows ComfyUI where that and the maker disagree; "cut to rank": a module that acts through its weight, merged
or resized with its base, is a dense update of which that rank is kept, and the judge applies that; WRONG, with the
error.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import coverage_makers as makers
from coverage import HALF, LAYOUTS, WRITTEN, Effects, ask, attempt, table
from coverage_diffusers import place, vectors
from coverage_small import SMALL, base_of
from lora_graft import adapters
from lora_graft.jobs.convert import convert
from lora_graft.jobs.merge.merge import merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from safetensors.torch import load_file

JUDGES = ("own reader", "LyCORIS", "diffusers", "PEFT", "ComfyUI")
OUR_TOLERANCE, THEIR_TOLERANCE = 5e-6, 2e-5  # relative, per weight; our arithmetic is in float32


def seen(change: torch.Tensor) -> torch.Tensor:
    """A change applied to a few random vectors; a vector's own change."""
    flat = change.double().flatten(1) if change.ndim > 1 else change.double()
    return flat @ vectors(flat.shape[1]) if change.ndim > 1 else flat


def effects_of(changes: makers.Changes, family: str) -> Effects:
    """Changes of diffusers' parameters as effects on the base's weights."""
    found: Effects = {}
    for name, change in changes.items():
        module, _, end = name.rpartition(".")
        if change.norm() > 0:
            key = SMALL[family].prefix + module
            place(found, key, seen(change), base_of(family)[0].names, ".bias" if end == "bias" else "")
    return found


def ours(adapter: adapters.Adapter, family: str) -> Effects:
    """What our reader says of an adapter."""
    base, found = base_of(family)[0], {}
    for key, module in adapter.modules.items():
        weight_slice = base.names.resolve(key)
        weight = base.load(weight_slice.name, weight_slice.rows) if weight_slice and module.kind != "bias" else None
        if module.kind != "bias":
            place(found, key, seen(module.delta(weight)), base.names)
        if (bias := module.bias()) is not None:
            place(found, key, bias.double(), base.names, ".bias")
    return {name: effect for name, effect in found.items() if effect.norm() > 0}


def compared(expected: Effects, found: Effects, tolerance: float, partly: bool = False) -> str:
    """A cell; partly: whether a loader may leave out weights that it has no name for."""
    if not found:
        return "none"
    if found.keys() - expected.keys() or not partly and found.keys() != expected.keys():
        return f"WRONG: {len(expected.keys() - found.keys())} lost, {len(found.keys() - expected.keys())} strange"
    worst = max(float((expected[n] - found[n]).norm() / expected[n].norm()) for n in found)
    if worst > tolerance:
        wrong = sum(float((expected[n] - e).norm() / expected[n].norm()) > tolerance for n, e in found.items())
        return f"WRONG: {wrong} of {len(found)} weights, error {worst:.1g}"
    return "ok" if len(found) == len(expected) else f"{len(found)} of {len(expected)}"


def steps_of(adapter: adapters.Adapter, base) -> dict[str, Any]:
    """Step -> the adapter that it gives, or why it is refused."""
    steps: dict[str, Any] = {"as it came": adapter}
    for layout in LAYOUTS:
        steps[layout] = attempt(lambda layout=layout: convert(adapter, layout, base))
    steps["merge"] = attempt(lambda: merge([(adapter, 0.5, 0.5)] * 2, HALF, base=base).adapter)
    steps["resize"] = attempt(lambda: resize(adapter, ResizeSettings("rank", 512, dtype="fp32"), base=base).adapter)
    return steps


def rows(kind: str, folder: Path, judges=JUDGES) -> dict[str, list[str]]:
    """Judge -> its cells for one kind of file, one for each step."""
    family, maker = makers.MADE[kind]
    file, changes = maker(family, folder)
    base, weights = base_of(family)
    expected, adapter = effects_of(changes, family), adapters.read(file)
    steps, files = steps_of(adapter, base), {}
    baked = any(module.needs_base for module in adapter.modules.values())  # merged, it is a dense update, then factors
    for step, made in steps.items():
        if not isinstance(made, str):
            (folder / step).mkdir()
            files[step] = adapters.write(made, folder / step / "lora.safetensors")
    files["as it came"] = file

    def comfyui(step: str) -> Effects:
        out = folder / step / "effects.safetensors"
        out.parent.mkdir(exist_ok=True)
        answer = ask(file=str(files[step]), out=str(out), small=[*SMALL[family].comfy, str(weights)])
        if isinstance(answer, dict):
            raise RuntimeError(answer["error"])
        return {name: effect for name, effect in load_file(out).items() if effect.norm() > 0}

    def lycoris(step: str) -> Effects:
        prefix = "lycoris" if next(iter(load_file(files[step]))).startswith("lycoris_") else "lora_unet"
        return effects_of(makers.in_lycoris(family, files[step], prefix=prefix), family)

    of: dict[str, Callable[[str], Effects]] = {
        "own reader": lambda step: ours(adapters.read(files[step]), family),
        "LyCORIS": lycoris,
        "diffusers": lambda step: effects_of(makers.in_diffusers(family, files[step]), family),
        "PEFT": lambda step: effects_of(makers.in_peft(family, files[step]), family),
        "ComfyUI": comfyui,
    }
    first = {judge: _tried(of[judge], "as it came") for judge in judges}

    def cell(judge: str, step: str) -> str:
        if isinstance(steps[step], str):
            return steps[step]
        found = first[judge] if step == "as it came" else _tried(of[judge], step)
        if isinstance(found, str):
            return found
        own = judge == "own reader"
        tolerance = OUR_TOLERANCE if own and "OFT" not in kind else THEIR_TOLERANCE
        verdict = compared(expected, found, tolerance, partly=not own)
        if not verdict.startswith("WRONG"):
            return verdict
        if (
            baked
            and step in ("merge", "resize")
            and compared(ours(steps[step], family), found, THEIR_TOLERANCE) == "ok"
        ):
            return f"cut to rank {max(module.rank or 0 for module in steps[step].modules.values())}"
        before = first.get("ComfyUI") if own else first[judge]
        known = isinstance(before, dict) and before and compared(before, found, THEIR_TOLERANCE, partly=True)
        if known == "ok" and (own or step != "as it came"):
            return "as ComfyUI" if own else "as before"
        if judge == "ComfyUI" and any(key.endswith(".lora_magnitude_vector") for key in load_file(files[step])):
            return "drops magnitudes"
        return verdict.replace("WRONG", "otherwise") if step == "as it came" and not own else verdict

    def back(step: str) -> str:
        """The verdict of our reader after the way back, where there is one."""
        verdict = cell("own reader", step)
        if verdict not in ("ok", "as ComfyUI") or step not in LAYOUTS or adapter.layout not in LAYOUTS:
            return verdict
        again = attempt(lambda: convert(adapters.read(files[step]), adapter.layout, base))
        if isinstance(again, str):
            return again
        same = compared(first["own reader"], ours(again, family), OUR_TOLERANCE)
        return verdict if same == "ok" else f"back {same}"

    return {judge: [back(s) if judge == "own reader" else cell(judge, s) for s in WRITTEN] for judge in judges}


def _tried(judge: Callable[[str], Effects], step: str) -> Effects | str:
    try:
        return judge(step)
    except Exception as problem:
        return f"fails ({type(problem).__name__})"


def main(words=()) -> None:
    torch.set_num_threads(1)
    kinds = [kind for kind in makers.MADE if not words or any(word in kind for word in words)]
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for number, kind in enumerate(kinds):
            folder = Path(name) / str(number)
            folder.mkdir()
            found[kind] = rows(kind, folder)
            for judge, cells in found[kind].items():
                print(f"{kind} · {judge}: {', '.join(cells)}", file=sys.stderr, flush=True)
        for judge in JUDGES:
            table(f"{judge}:", WRITTEN, lambda kind, judge=judge: found[kind][judge], kinds)


if __name__ == "__main__":
    main(sys.argv[1:])
