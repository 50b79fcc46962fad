"""Which LoRA files of other programs survive which step, and who says so: python benchmarks/coverage.py [kind …]

For each kind of file (coverage_kinds.py) it writes one with random values, reads it, asks inspect for the family,
converts it to each layout and back, merges it with itself and resizes it to a rank it has already. The update of every
weight, applied to a few random vectors in float64 (one alone can miss a small rank), must come out the same. Three
judges:

- this project's own reader, with no base at hand;
- ComfyUI's loader, on the files written for its own model (COMFYUI_PATH, else ~/comfy/ComfyUI);
- diffusers' pipeline loader, and PEFT for the PEFT layout, on the same files.

Cells: "ok"; "base": refused in plain words because the model's names are not known without it; "none": the judge has
no name for any of the file's weights; a refusal for another reason; WRONG, with the error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import coverage_diffusers as others
from coverage_kinds import KINDS, tensors_of
from host import find
from lora_graft import adapters
from lora_graft.errors import GraftError
from lora_graft.jobs.convert import convert
from lora_graft.jobs.inspect import inspect_adapter
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.names import module_of, names_for, names_of_adapters
from lora_graft.names.alike import flat
from safetensors.torch import load_file

LAYOUTS = ("kohya", "comfy", "diffusers", "peft")
WRITTEN = ("as it came", *LAYOUTS, "merge", "resize")
HALF = MergeSettings(method="concat", dtype="fp32")
Effects = dict[str, torch.Tensor]


class Model:
    """A base of random weights that depend on their names alone, as the judges make them."""

    fingerprint = ""

    def __init__(self, family: str, shapes: dict[str, tuple[int, ...]]):
        self.shapes, self.names = shapes, names_for(shapes)
        self.label = self.architecture = family

    def weights(self):
        return self.shapes

    def storage(self, name):
        return "fp32"

    def digest(self, name):
        return f"{self.label}{name}"

    def load(self, name, rows=None):
        return _random(name, self.shapes[name], rows)


@lru_cache(maxsize=12)
def _whole(name: str, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(crc32(name.encode())))


def _random(name: str, shape, rows=None):
    whole = _whole(name, tuple(shape))
    return whole if rows is None else whole[rows[0] : sum(rows)]


def effects(adapter, names) -> Effects:
    """Weight -> ΔW on a few random vectors, whatever the modules are called or however they are cut.

    A module whose update has not its weight's shape has no effect, as in ComfyUI.
    """
    found: Effects = {}
    for key, module in adapter.modules.items():
        weight_slice = names.resolve(key) if names else None
        shape = names.shape(weight_slice) if weight_slice else None
        if shape and not module.fits(shape):
            continue
        values = [("", _seen(module, weight_slice, names))] if module.kind != "bias" else []
        values += [] if module.bias() is None else [(".bias", module.bias().double())]
        for end, effect in values:
            if weight_slice is None:
                found[flat(key) + end] = effect
                continue
            height, start = names.shapes[weight_slice.name][0], weight_slice.rows[0] if weight_slice.rows else 0
            effect = effect.roll(len(effect) // 2, 0) if weight_slice.swap else effect
            name = module_of(weight_slice.name) + end if end else weight_slice.name
            whole = found.setdefault(name, torch.zeros(height, *effect.shape[1:]).double())
            whole[start : start + len(effect)] += effect
    return found


def _seen(module, weight_slice, names):
    if module.needs_base or module.kind in ("diff", "norm"):
        base = _random(weight_slice.name, names.shapes[weight_slice.name], weight_slice.rows) if weight_slice else None
        change = module.delta(base)
        if change.ndim < 2:
            return change.double()
        up, down = None, change.flatten(1).double()
    else:
        up, down = (t.double() for t in module.low_rank())
    vectors = others.vectors(down.shape[1])
    return down @ vectors if up is None else up @ (down @ vectors)


def same(one: Effects, other: Effects, tolerance=3e-6) -> str:
    """ "ok", or what differs between two lists of effects."""
    if one.keys() != other.keys():
        return f"WRONG: {len(one.keys() - other.keys())} weights lost, {len(other.keys() - one.keys())} strange"
    worst = max(float((one[n] - other[n]).norm() / one[n].norm()) if one[n].shape == other[n].shape else 9 for n in one)
    return "ok" if worst < tolerance else f"WRONG: error {worst:.1g}"


def attempt(step) -> Any:
    """What a step gives, or why it refuses."""
    try:
        return step()
    except GraftError as refusal:
        return "base" if "base" in (refusal.hint or "") else _in_short(refusal.what)
    except Exception as problem:
        return f"WRONG: {type(problem).__name__}: {problem}"


def _in_short(refusal: str) -> str:
    """A refusal in a cell's few words."""
    if found := re.search(r"layout cannot hold a (\w+) module", refusal):
        return f"no {found[1]} there"
    if re.search(r"layout has no name for", refusal):
        return "no name"
    return "base's names unknown" if "modules belongs to" in refusal else f"refused: {refusal}"


# This project's own reader


def own_row(kind: str, folder: Path) -> list[str]:
    """The cells of one kind of file without a base."""
    tensors, expected = tensors_of(kind), KINDS[kind].recognised
    path = adapters.write(adapters.from_state_dict(tensors), folder / "own.safetensors", overwrite=True)
    adapter = adapters.read(path)
    again = adapters.to_state_dict(adapter)
    exact = again.keys() == tensors.keys() and all(torch.equal(again[k], t) for k, t in tensors.items())
    recognised = inspect_adapter(adapter).architecture
    found = names_of_adapters({k: m.shape for k, m in adapter.modules.items()}, adapter.metadata)
    names = found[0] if found else None
    before = attempt(lambda: effects(adapter, names))

    def there_and_back(layout):
        there = convert(adapter, layout)
        first = same(before, effects(there, names))
        if first != "ok" or adapter.layout not in LAYOUTS or names is None:
            return first
        return same(before, effects(convert(there, adapter.layout), names))

    cells = [
        "ok" if exact and not adapter.extras else "WRONG",
        recognised if recognised == expected else f"WRONG: {recognised}",
    ]
    if isinstance(before, str):
        return [*cells, *["base"] * (len(LAYOUTS) + 2)]
    cells += [attempt(lambda layout=layout: there_and_back(layout)) for layout in LAYOUTS]
    cells.append(attempt(lambda: same(before, effects(merge([(adapter, 0.5, 0.5)] * 2, HALF).adapter, names))))
    cells.append(attempt(lambda: same(before, effects(resize(adapter, _rank_kept(adapter)).adapter, names))))
    return cells


def _rank_kept(adapter) -> ResizeSettings:
    """Resizing to a rank that every module has already; a Kronecker product of whole halves has a high one."""
    whole = any(module.kind == "lokr" and module.rank is None for module in adapter.modules.values())
    return ResizeSettings("rank", 2048 if whole else 16, dtype="fp32")


# The others


@cache
def _comfyui() -> subprocess.Popen:
    root, python = find()
    command = [str(python), str(Path(__file__).with_name("coverage_comfyui.py")), str(root)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def ask(**request) -> Any:
    """One answer of ComfyUI's judge."""
    process = _comfyui()
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@cache
def model_of(family: str) -> Model | None:
    """The base with the names of ComfyUI's model; None where ComfyUI has none."""
    shapes = ask(family=family)
    if isinstance(shapes, dict) and "error" in shapes:
        raise RuntimeError(f"{family}: {shapes['error']}")
    return Model(family, {name: tuple(shape) for name, shape in shapes.items()}) if shapes else None


def written(kind: str) -> tuple[Any, Model | None, dict[str, Any]]:
    """(the file's adapter, its base, step -> the adapter that it gives or why it is refused)."""
    adapter, base = adapters.from_state_dict(tensors_of(kind)), model_of(KINDS[kind].family)
    steps: dict[str, Any] = {"as it came": adapter}
    for layout in LAYOUTS:
        steps[layout] = attempt(lambda layout=layout: convert(adapter, layout, base))
    steps["merge"] = attempt(lambda: merge([(adapter, 0.5, 0.5)] * 2, HALF, base=base).adapter)
    steps["resize"] = attempt(lambda: resize(adapter, _rank_kept(adapter), base=base).adapter)
    return adapter, base, steps


def comfyui_row(kind: str, folder: Path) -> list[str]:
    """The cells of one kind of file, as ComfyUI's loader sees what was written for its own model."""
    adapter, base, steps = written(kind)
    if base is None:
        return ["no such model"] + [""] * (len(WRITTEN) - 1)
    random = any(module.needs_base for module in adapter.modules.values())
    expected = effects(adapter, base.names)

    def seen(step: str) -> str:
        file, out = folder / "judged.safetensors", folder / "effects.safetensors"
        adapters.write(steps[step], file, overwrite=True)
        answer = ask(family=base.label, file=str(file), out=str(out), base=random)
        if isinstance(answer, dict):
            return f"WRONG: {answer['error']}"
        cell = verdict(expected, load_file(out), answer)
        if random and cell.startswith("WRONG") and step in ("merge", "resize"):  # a dense update has full rank
            cut = verdict(effects(steps[step], base.names), load_file(out), answer)
            return f"cut to rank {max(m.rank for m in steps[step].modules.values())}" if cut == "ok" else cell
        return cell

    return [steps[step] if isinstance(steps[step], str) else attempt(lambda s=step: seen(s)) for step in WRITTEN]


def verdict(expected: Effects, found: Effects, log: list[str], may_lack: bool | None = None) -> str:
    """A judge's cell: agreement, how many of the file's weights it has names for, or what differs.

    log: what the loader logged. may_lack: whether weights may be missing; by default only where the loader says that
    it does not know their keys.
    """
    if not found:
        return "none"
    if not found.keys() & expected.keys():
        return "read, not compared"  # the weights' names are not known here
    if may_lack is None:
        may_lack = any("not loaded" in line for line in log) and not any("ERROR" in line for line in log)
    if may_lack and found.keys() < expected.keys():
        rest = same({name: expected[name] for name in found}, found, 2e-5)
        return f"{len(found)} of {len(expected)}" if rest == "ok" else rest
    cell = same(expected, found, 2e-5)
    if cell != "ok" and any("DoRA" in line for line in log):
        return "drops dora_scale"
    if cell != "ok" and any("lora_magnitude_vector" in line for line in log):
        return "drops magnitudes"
    return cell


def diffusers_row(kind: str) -> list[str]:
    """The cells of one kind of file: diffusers' loader on what was written, PEFT on the PEFT layout."""
    adapter, base, steps = written(kind)
    family = KINDS[kind].family
    if family not in others.FAMILIES:
        return ["no such loader"] + [""] * len(WRITTEN)
    names = base and base.names
    expected = effects(adapter, names)
    random = any(module.needs_base for module in adapter.modules.values())

    def seen(step: str, judge) -> str:
        if judge is others.of_peft and any(module.kind != "lora" for module in steps[step].modules.values()):
            return "not judged"  # other adapters than LoRA
        try:
            state = adapters.to_state_dict(steps[step])
            found, log = judge(family, {key: tensor.clone() for key, tensor in state.items()}, names)
        except Exception as problem:
            return f"fails ({type(problem).__name__})"
        cell = verdict(
            expected, found, log, may_lack=judge is others.of_diffusers and steps[step].layout != "diffusers"
        )
        if random and cell.startswith("WRONG"):
            return "not judged"  # these models have no values, which magnitudes need
        return "loses mixed alphas" if cell.startswith("WRONG") and _another_alpha(steps[step], names, found) else cell

    cells = [steps[step] if isinstance(steps[step], str) else seen(step, others.of_diffusers) for step in WRITTEN]
    return [*cells, steps["peft"] if isinstance(steps["peft"], str) else seen("peft", others.of_peft)]


def _another_alpha(adapter, names, found: Effects) -> bool:
    """Whether a loader read every weight exactly, but some with the alpha of another of the file's modules."""
    alphas = {module.alpha for module in adapter.modules.values()} - {None}
    tries = [effects(_with_alpha(adapter, alpha), names) for alpha in alphas] if len(alphas) > 1 else []
    if not tries or any(one.keys() != found.keys() for one in tries):
        return False
    return all(any(same({n: one[n]}, {n: found[n]}, 2e-5) == "ok" for one in tries) for n in found)


def _with_alpha(adapter, alpha: float):
    modules = adapter.modules.items()
    changed = {k: replace(m, tensors={**m.tensors, ".alpha": torch.tensor(alpha)}) for k, m in modules}
    return replace(adapter, modules=changed)


def table(title: str, columns, row, kinds) -> None:
    print(f"\n{title}\n\n| file | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for kind in kinds:
        print(f"| {kind} | " + " | ".join(row(kind)) + " |", flush=True)


def main(words=()) -> None:
    torch.set_num_threads(1)
    kinds = [kind for kind in KINDS if not words or any(word in kind for word in words)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = ("read", "inspect", *(f"→ {layout} →" for layout in LAYOUTS), "merge", "resize")
        table("Own reader, no base:", columns, lambda kind: own_row(kind, folder), kinds)
        table("ComfyUI's loader:", WRITTEN, lambda kind: comfyui_row(kind, folder), kinds)
        table("diffusers' loader, and PEFT:", (*WRITTEN, "PEFT: peft"), diffusers_row, kinds)


if __name__ == "__main__":
    main(sys.argv[1:])
