"""One small adapter module of every format, with a base weight it fits, and the real ComfyUI's word on its ΔW."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """tensors by suffix; the base weight's shape; who besides ComfyUI can judge it."""

    name: str
    make: Callable[[Callable[..., Tensor]], dict[str, Tensor]]
    shape: tuple[int, ...]
    host: bool = True

    def tensors(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, size: float = 0.3) -> Tensor:
            return torch.randn(*shape, generator=generator) * size

        made = self.make(draw)
        return {s: t.to(dtype) if t.dtype.is_floating_point and t.numel() > 1 else t.clone() for s, t in made.items()}

    def weight(self, seed: int = 1) -> Tensor:
        return torch.randn(*self.shape, generator=torch.Generator().manual_seed(seed)) / prod(self.shape[1:]) ** 0.5


def samples(k: int = 1, R: int = 4) -> dict[str, Sample]:
    """Every format by name: 24k x 20k matrices and 3 x 3 kernels, rank R."""
    M, N = 24 * k, 20 * k
    LINEAR, CONV = (M, N), (M, N, 3, 3)
    alpha = torch.tensor(2.0)

    def _lora(d, **more):
        return {".lora_up.weight": d(M, R), ".lora_down.weight": d(R, N), ".alpha": alpha, **more}

    def _peft(d, suffix=".weight"):
        return {f".lora_B{suffix}": d(M, R), f".lora_A{suffix}": d(R, N)}

    def _conv(d):
        return {".lora_up.weight": d(M, R, 1, 1), ".lora_down.weight": d(R, N, 3, 3), ".alpha": alpha}

    def _conv_mid(d):
        return {
            ".lora_up.weight": d(M, R, 1, 1),
            ".lora_mid.weight": d(R, R, 3, 3),
            ".lora_down.weight": d(R, N, 1, 1),
            ".alpha": alpha,
        }

    def _loha(d, width=N, **more):
        return {
            ".hada_w1_a": d(M, R),
            ".hada_w1_b": d(R, width),
            ".hada_w2_a": d(M, R),
            ".hada_w2_b": d(R, width),
            ".alpha": alpha,
            **more,
        }

    def _loha_tucker(d):
        return {
            ".hada_t1": d(R, R, 3, 3),
            ".hada_w1_a": d(R, M),
            ".hada_w1_b": d(R, N),
            ".hada_t2": d(R, R, 3, 3),
            ".hada_w2_a": d(R, M),
            ".hada_w2_b": d(R, N),
            ".alpha": alpha,
        }

    def _lokr(d, first="full", second="full", **more):
        tensors = {".lokr_w1": d(4, 5)} if first == "full" else {".lokr_w1_a": d(4, 2), ".lokr_w1_b": d(2, 5)}
        if second == "full":
            tensors[".lokr_w2"] = d(6 * k, 4 * k)
        elif second == "factored":
            tensors |= {".lokr_w2_a": d(6 * k, 3), ".lokr_w2_b": d(3, 4 * k)}
        elif second == "conv":
            tensors[".lokr_w2"] = d(6 * k, 4 * k, 3, 3)
        elif second == "conv factored":
            tensors |= {".lokr_w2_a": d(6 * k, 3), ".lokr_w2_b": d(3, 4 * k * 9)}
        else:
            tensors |= {".lokr_t2": d(3, 3, 3, 3), ".lokr_w2_a": d(3, 6 * k), ".lokr_w2_b": d(3, 4 * k)}
        return {**tensors, ".alpha": alpha, **more}

    def _glora_new(d):
        return {
            ".a1.weight": d(N, R),
            ".a2.weight": d(R, N),
            ".b1.weight": d(M, R),
            ".b2.weight": d(R, N),
            ".alpha": alpha,
        }

    def _glora_old(d):
        return {
            ".a1.weight": d(R, N),
            ".a2.weight": d(N, R),
            ".b1.weight": d(R, N),
            ".b2.weight": d(M, R),
            ".alpha": alpha,
        }

    def _glora_conv(d):
        return {
            ".a1.weight": d(N, R, 1, 1),
            ".a2.weight": d(R, N, 1, 1),
            ".b1.weight": d(M, R, 1, 1),
            ".b2.weight": d(R, N, 3, 3),
            ".alpha": alpha,
        }

    def _rows(d):
        return {".dora_scale": d(M, 1).abs() + 1}

    return {
        sample.name: sample
        for sample in (
            Sample("lora", _lora, LINEAR),
            Sample("lora without alpha", lambda d: {".lora_up.weight": d(M, R), ".lora_down.weight": d(R, N)}, LINEAR),
            Sample("lora with bias", lambda d: _lora(d, **{".diff_b": d(M)}), LINEAR),
            Sample("lora reshaping", lambda d: _lora(d, **{".reshape_weight": torch.tensor([M, N])}), LINEAR),
            Sample("lora peft", _peft, LINEAR),
            Sample("lora peft bare", lambda d: _peft(d, ""), LINEAR),
            Sample("lora peft named", lambda d: _peft(d, ".default.weight"), LINEAR),
            Sample("lora diffusers", lambda d: {".lora.up.weight": d(M, R), ".lora.down.weight": d(R, N)}, LINEAR),
            Sample(
                "lora diffusers processor", lambda d: {"_lora.up.weight": d(M, R), "_lora.down.weight": d(R, N)}, LINEAR
            ),
            Sample(
                "lora text encoder",
                lambda d: {".lora_linear_layer.up.weight": d(M, R), ".lora_linear_layer.down.weight": d(R, N)},
                LINEAR,
            ),
            Sample("locon", _conv, CONV),
            Sample("locon flat", lambda d: {".lora_up.weight": d(M, R), ".lora_down.weight": d(R, N * 9)}, CONV),
            Sample("locon tucker", _conv_mid, CONV),
            Sample("loha", _loha, LINEAR),
            Sample("loha conv", lambda d: _loha(d, N * 9), CONV),
            Sample("loha tucker", _loha_tucker, CONV),
            Sample("lokr full", _lokr, LINEAR),
            Sample("lokr w2 factored", lambda d: _lokr(d, second="factored"), LINEAR),
            Sample("lokr both factored", lambda d: _lokr(d, "factored", "factored"), LINEAR),
            Sample("lokr w1 factored", lambda d: _lokr(d, "factored"), LINEAR),
            Sample("lokr conv", lambda d: _lokr(d, second="conv"), CONV),
            Sample("lokr conv factored", lambda d: _lokr(d, second="conv factored"), CONV),
            Sample("lokr tucker", lambda d: _lokr(d, second="tucker"), CONV, host=False),
            Sample("dora by output", lambda d: _lora(d, **_rows(d)), LINEAR),
            Sample("dora by input", lambda d: _lora(d, **{".dora_scale": d(1, N).abs() + 1}), LINEAR),
            Sample("dora conv by output", lambda d: {**_conv(d), ".dora_scale": d(M, 1, 1, 1).abs() + 1}, CONV),
            Sample("dora conv by input", lambda d: {**_conv(d), ".dora_scale": d(1, N, 1, 1).abs() + 1}, CONV),
            Sample("dora loha", lambda d: _loha(d, **_rows(d)), LINEAR),
            Sample("dora lokr", lambda d: _lokr(d, second="factored", **_rows(d)), LINEAR),
            Sample("dora glora", lambda d: {**_glora_new(d), **_rows(d)}, LINEAR),
            Sample("dora peft", lambda d: {**_peft(d), ".lora_magnitude_vector": d(M).abs() + 1}, LINEAR, host=False),
            Sample("oft", lambda d: {".oft_blocks": d(3 * k, 8, 8, size=0.1), ".alpha": torch.tensor(0.0)}, LINEAR),
            Sample("oft bounded", lambda d: {".oft_blocks": d(3 * k, 8, 8), ".alpha": torch.tensor(0.5)}, LINEAR),
            Sample("oft conv", lambda d: {".oft_blocks": d(6 * k, 4, 4, size=0.1), ".alpha": torch.tensor(0.0)}, CONV),
            Sample(
                "boft", lambda d: {".oft_blocks": d(3, 8 * k, 4, 4, size=0.1), ".alpha": torch.tensor(0.0)}, (32 * k, N)
            ),
            Sample(
                "boft rescaled",
                lambda d: {
                    ".oft_blocks": d(2, 8 * k, 4, 4, size=0.1),
                    ".alpha": torch.tensor(0.3),
                    ".rescale": d(32 * k, 1, 1, 1) + 1,
                },
                (32 * k, N, 3, 3),
            ),
            Sample("glora", _glora_new, LINEAR),
            Sample("glora old", _glora_old, LINEAR),
            Sample("glora conv", _glora_conv, CONV),
            Sample("ia3", lambda d: {".weight": d(M), ".on_input": torch.tensor(0)}, LINEAR, host=False),
            Sample("ia3 on input", lambda d: {".weight": d(N), ".on_input": torch.tensor(1)}, LINEAR, host=False),
            Sample("ia3 conv", lambda d: {".weight": d(1, M, 1, 1), ".on_input": torch.tensor(0)}, CONV, host=False),
            Sample("ia3 peft", lambda d: {".ia3_l": 1 + d(M, 1)}, LINEAR, host=False),
            Sample("diff", lambda d: {".diff": d(*LINEAR)}, LINEAR),
            Sample("diff conv", lambda d: {".diff": d(*CONV), ".diff_b": d(M)}, CONV),
            Sample("set", lambda d: {".set_weight": d(*LINEAR)}, LINEAR),
            Sample("norm", lambda d: {".w_norm": d(M), ".b_norm": d(M)}, (M,)),
        )
    }


SAMPLES = samples()

_JUDGE = """
import sys
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[:1] + sys.argv[2:]
paths = sys.argv[1:]
del sys.argv[1:]
import comfy.cli_args
comfy.cli_args.args.cpu = True
import torch
import comfy.lora, comfy.lora_convert
from safetensors.torch import load_file, save_file
bases, adapters, out = paths
weights, sd, deltas = load_file(bases), load_file(adapters), {}
patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(sd), {k: k + ".weight" for k in weights})
for key, patch in patches.items():
    name, _, part = key.rpartition(".")
    base = weights[name].clone() if part == "weight" else torch.zeros(weights[name].shape[0])
    new = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], base.clone(), key)
    deltas[key] = (new - base).contiguous()
save_file(deltas, out)
"""


def judged_by_host(
    host: tuple[Path, Path], folder: Path, weights: dict[str, Tensor], adapter: dict[str, Tensor] | Path
) -> dict[str, Tensor]:
    """ΔW (``<key>.weight``) and bias changes (``<key>.bias``) as ComfyUI computes them.

    Args:
        weights: module key -> base weight.
        adapter: the adapter's tensors, or its file.
    """
    bases, out = folder / "bases.safetensors", folder / "deltas.safetensors"
    save_file({k: t.contiguous() for k, t in weights.items()}, bases)
    if not isinstance(adapter, Path):
        file = folder / "judged.safetensors"
        save_file({k: t.contiguous().clone() for k, t in adapter.items()}, file)
        adapter = file
    command = [str(host[1]), "-c", _JUDGE, str(host[0]), str(bases), str(adapter), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=host[0])
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return load_file(out)


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return float(
        torch.linalg.vector_norm(found.double() - expected.double())
        / torch.linalg.vector_norm(expected.double()).clamp_min(1e-30)
    )
