"""Which LoRA files of other programs survive which step: python benchmarks/coverage.py

For each kind of file (coverage_kinds.py) it writes one with random values, reads it, asks inspect for the family,
converts it to each layout and back without a base, merges it with itself and resizes it to a rank it has already. The
update of every weight, applied to a random vector in float64, must come out the same. Cells: "ok"; "base": refused in
plain words because the model's names are not known without it; a refusal for another reason; WRONG, with the error.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from coverage_kinds import KINDS, tensors_of
from lora_graft import adapters
from lora_graft.errors import GraftError
from lora_graft.jobs.convert import convert
from lora_graft.jobs.inspect import inspect_adapter
from lora_graft.jobs.merge.merge import MergeSettings, merge
from lora_graft.jobs.merge.resize import ResizeSettings, resize
from lora_graft.names import names_of_adapters
from lora_graft.names.alike import flat

LAYOUTS = ("kohya", "comfy", "diffusers", "peft")
STEPS = ("read", "inspect", *(f"→ {layout} →" for layout in LAYOUTS), "merge", "resize")


def effects(adapter, names):
    """Weight -> (rows, ΔW of its rows on a random vector), whatever the modules are called or however they are cut.

    A module whose update has not its weight's shape has no effect, as in ComfyUI.
    """
    found = {}
    for key, module in adapter.modules.items():
        weight_slice = names.resolve(key) if names else None
        if weight_slice and names.shape(weight_slice) and not module.fits(names.shape(weight_slice)):
            continue
        up, down = (t.double() for t in module.low_rank())
        vector = torch.randn(down.shape[1], generator=torch.Generator().manual_seed(down.shape[1])).double()
        name = weight_slice.name if weight_slice else flat(key)
        height = names.shapes[name][0] if weight_slice else up.shape[0]
        start, length = weight_slice.rows or (0, height) if weight_slice else (0, height)
        found.setdefault(name, torch.zeros(height).double())[start : start + length] += up @ (down @ vector)
    return found


def same(one, other, tolerance=3e-6) -> str:
    """ "ok", or what differs between two lists of effects."""
    if one.keys() != other.keys():
        return f"WRONG: {len(one.keys() - other.keys())} weights lost, {len(other.keys() - one.keys())} strange"
    worst = max(float((one[n] - other[n]).norm() / one[n].norm()) if one[n].shape == other[n].shape else 9 for n in one)
    return "ok" if worst < tolerance else f"WRONG: error {worst:.1g}"


def attempt(step) -> str:
    """What a step says, or why it refuses."""
    try:
        return step()
    except GraftError as refusal:
        return "base" if "base" in (refusal.hint or "") else f"refused: {refusal.what}"
    except Exception as problem:
        return f"WRONG: {type(problem).__name__}: {problem}"


def row(kind: str, folder: Path) -> list[str]:
    """The cells of one kind of file."""
    tensors, expected = tensors_of(kind), KINDS[kind][3]
    path = adapters.write(adapters.from_state_dict(tensors), folder / f"{len(list(folder.iterdir()))}.safetensors")
    adapter = adapters.read(path)
    again = adapters.to_state_dict(adapter)
    exact = again.keys() == tensors.keys() and all(torch.equal(again[k], t) for k, t in tensors.items())
    said = inspect_adapter(adapter).architecture
    found = names_of_adapters({k: m.shape for k, m in adapter.modules.items()}, adapter.metadata)
    names = found[0] if found else None
    before = effects(adapter, names)

    def there_and_back(layout):
        there = convert(adapter, layout)
        first = same(before, effects(there, names))
        if first != "ok" or adapter.layout not in LAYOUTS or names is None:
            return first
        return same(before, effects(convert(there, adapter.layout), names))

    half = MergeSettings(method="concat")
    cells = ["ok" if exact and not adapter.extras else "WRONG", said if said == expected else f"WRONG: {said}"]
    cells += [attempt(lambda layout=layout: there_and_back(layout)) for layout in LAYOUTS]
    cells.append(attempt(lambda: same(before, effects(merge([(adapter, 0.5, 0.5)] * 2, half).adapter, names))))
    cells.append(attempt(lambda: same(before, effects(resize(adapter, ResizeSettings("rank", 16)).adapter, names))))
    return cells


def main() -> None:
    torch.set_num_threads(2)
    print("| file | " + " | ".join(STEPS) + " |")
    print("|---" * (len(STEPS) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            print(f"| {kind} | " + " | ".join(row(kind, Path(folder))) + " |", flush=True)


if __name__ == "__main__":
    main()
