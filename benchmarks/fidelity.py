"""Is a saved adapter still the same adapter? For every format: read, write, reload with an independent program.

    python benchmarks/fidelity.py [--out TABLE.md]

ΔW of the written file as ComfyUI computes it (LyCORIS and PEFT where ComfyUI does not read the format), against ΔW of
the original as computed here; the largest relative error (Frobenius) over seeds, matrices and kernels. Exits with 1
when a figure misses its target. ComfyUI is looked for as the tests do (COMFYUI_PATH, COMFYUI_PYTHON).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
SEEDS, SIZE, RANK = 3, 8, 8
TARGETS = {"fp32": 1e-6, "fp16": 2e-3}

# row of the table -> samples, what its factors are
ROWS = {
    "LoRA (kohya, ComfyUI)": (("lora", "lora without alpha", "lora with bias"), "exact, rank r"),
    "LoRA (PEFT, diffusers, older diffusers)": (
        (
            "lora peft",
            "lora peft bare",
            "lora peft named",
            "lora diffusers",
            "lora diffusers processor",
            "lora text encoder",
        ),
        "exact, rank r",
    ),
    "LoRA widening its weight": (("lora reshaping",), "exact, rank r"),
    "LoCon": (("locon", "locon flat"), "exact, rank r"),
    "LoCon with Tucker core": (("locon tucker",), "exact, rank r"),
    "LoHa": (("loha", "loha conv"), "exact, rank r²"),
    "LoHa with Tucker cores": (("loha tucker",), "exact, rank r²"),
    "LoKr": (
        ("lokr full", "lokr w2 factored", "lokr both factored", "lokr w1 factored", "lokr conv", "lokr conv factored"),
        "exact, rank r₁·r₂",
    ),
    "LoKr with Tucker core": (("lokr tucker",), "exact, rank r₁·r₂"),
    "DoRA on LoRA, LoHa, LoKr, GLoRA (by output)": (
        ("dora by output", "dora conv by output", "dora loha", "dora lokr", "dora glora"),
        "exact given the base, full rank",
    ),
    "DoRA (by input)": (("dora by input", "dora conv by input"), "exact given the base, full rank"),
    "DoRA (PEFT)": (("dora peft",), "exact given the base, full rank"),
    "OFT, COFT": (("oft", "oft bounded", "oft conv"), "exact given the base, full rank"),
    "BOFT": (("boft", "boft rescaled"), "exact given the base, full rank"),
    "GLoRA (new and old)": (("glora", "glora old", "glora conv"), "exact given the base, rank 2r"),
    "IA³ (LyCORIS)": (("ia3", "ia3 on input", "ia3 conv"), "exact given the base, full rank"),
    "IA³ (PEFT)": (("ia3 peft",), "exact given the base, full rank"),
    "Full difference": (("diff", "diff conv"), "exact, rank of the difference"),
    "Replaced weight": (("set",), "exact given the base"),
    "Norm": (("norm",), "exact"),
}


def load_module(name: str, path: Path):
    """A Python file of the test suite, by path."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def by_lycoris(tensors: dict[str, Tensor], base: Tensor) -> Tensor:
    """ΔW of a LoKr with Tucker core or an IA³, from LyCORIS' own functions."""
    if ".on_input" in tensors:
        from lycoris.modules.ia3 import _ia3_weight

        return _ia3_weight(base, tensors[".weight"].float(), bool(tensors[".on_input"]), 1.0, True)
    from lycoris.functional import lokr

    names = (".lokr_w1", ".lokr_w1_a", ".lokr_w1_b", ".lokr_w2", ".lokr_w2_a", ".lokr_w2_b", ".lokr_t2")
    factors = [tensors[n].float() if n in tensors else None for n in names]
    scale = float(tensors[".alpha"]) / tensors[".lokr_w2_b"].shape[0]
    return lokr.kron_weight(*factors, scale=scale).reshape(base.shape)


def by_peft(tensors: dict[str, Tensor], base: Tensor) -> Tensor:
    """ΔW of a PEFT module: a Linear layer with the base weight, the tensors loaded, merged."""
    import peft

    net = torch.nn.Sequential(torch.nn.Linear(base.shape[1], base.shape[0], bias=False))
    net[0].weight.data.copy_(base)
    if ".ia3_l" in tensors:
        config = peft.IA3Config(target_modules=["0"], feedforward_modules=[])
    else:
        rank = tensors[".lora_A.weight"].shape[0]
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], use_dora=True)
    model = peft.get_peft_model(net, config)
    state = {f"base_model.model.0{s}": t.float() for s, t in tensors.items()}
    peft.set_peft_model_state_dict(model, state)
    return model.merge_and_unload()[0].weight.detach() - base


def measured(samples, host, files) -> dict[str, dict[str, float]]:
    """Sample name -> {"fp32", "fp16", "factors"}: largest relative error of ΔW, and of the factors' product here."""
    from lora_graft import adapters

    keys = {f"{name}|{seed}": (sample, seed) for name, sample in samples.items() for seed in range(SEEDS)}
    tensors = {key + s: t for key, (sample, seed) in keys.items() for s, t in sample.tensors(seed).items()}
    weights = {key: sample.weight(seed + 100) for key, (sample, seed) in keys.items()}
    adapter = adapters.from_state_dict(tensors)
    errors: dict[str, dict[str, float]] = {name: {} for name in samples}
    with tempfile.TemporaryDirectory() as folder:
        first = adapters.write(adapter, Path(folder) / "as_read.safetensors")
        again = load_file(first)
        if again.keys() != tensors.keys() or not all(torch.equal(again[k], t) for k, t in tensors.items()):
            raise SystemExit("the written file does not hold the tensors that were read")
        for dtype in TARGETS:
            path = adapters.write(adapters.read(first), Path(folder) / f"{dtype}.safetensors", dtype=dtype)
            written = load_file(path)
            judged = {k: w for k, w in weights.items() if keys[k][0].host}
            deltas = files.judged_by_host(host, Path(folder), judged, path) if judged else {}
            for key, (sample, _) in keys.items():
                ours = adapter.modules[key].delta(weights[key])
                mine = {k[len(key) :]: t for k, t in written.items() if k.startswith(key)}
                theirs = (
                    deltas[key + ".weight"]
                    if sample.host
                    else by_peft(mine, weights[key])
                    if "peft" in sample.name
                    else by_lycoris(mine, weights[key])
                )
                worst = errors[sample.name]
                worst[dtype] = max(worst.get(dtype, 0.0), files.relative(ours, theirs))
                if dtype == "fp32" and ours.ndim > 1:
                    product = adapter.modules[key].low_rank(weights[key]).dense()
                    worst["factors"] = max(worst.get("factors", 0.0), files.relative(product, theirs.flatten(1)))
    return errors


def table(samples, errors) -> tuple[str, bool]:
    """The Markdown table and whether every figure meets its target."""
    lines = [
        "| Format | As a low-rank update | Error fp32 | Error fp16 | Error of the factors | Oracle |",
        "|---|---|---|---|---|---|",
    ]
    good = True
    for row, (names, how) in ROWS.items():
        worst = {kind: max(errors[n].get(kind, 0.0) for n in names) for kind in ("fp32", "fp16", "factors")}
        good &= all(worst[kind] <= target for kind, target in TARGETS.items()) and worst["factors"] <= 1e-5
        oracle = "ComfyUI" if samples[names[0]].host else "PEFT" if "peft" in names[0] else "LyCORIS"
        factors = f"{worst['factors']:.1e}" if worst["factors"] else "–"
        lines.append(f"| {row} | {how} | {worst['fp32']:.1e} | {worst['fp16']:.1e} | {factors} | {oracle} |")
    return "\n".join(lines), good


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, help="also write the table to this file")
    out = options.parse_args().out
    files = load_module("adapter_samples", ROOT / "tests/adapters/adapter_samples.py")
    host = load_module("host_finder", ROOT / "tests/conftest.py").find_host()
    if isinstance(host, str):
        print(host, file=sys.stderr)
        return 2
    samples = files.samples(SIZE, RANK)
    missing = set(samples) - {name for names, _ in ROWS.values() for name in names}
    if missing:
        raise SystemExit(f"no row for {', '.join(sorted(missing))}")
    text, good = table(samples, measured(samples, host, files))
    m, n = samples["lora"].shape
    sizes = f"Matrices {m} × {n}, kernels {m} × {n} × 3 × 3, rank {RANK}, {SEEDS} seeds"
    text = f"{sizes}; largest relative error.\n\n{text}\n"
    print(text)
    if out:
        out.write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
