"""Are the tensors that the commands write the same, bit for bit, in two versions of this package?

    python benchmarks/digests.py OLD_CLONE NEW_CLONE

Runs `transfer`, `merge`, `resize` and `convert` of both clones on the example family, with every method, and prints the
commands whose tensors differ; exit status 1 if there are any. Metadata is left out: it names versions and times.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

LORAS = [f"loras/family_{name}.safetensors" for name in ("frame_a", "slant_a", "stripes_a")]
BASES = [f"diffusion_models/family_{name}.safetensors" for name in "abcs"]
A, B, C, S = BASES
MOVES = [("auto", B), ("auto", C), ("copy", C), ("lora-x", B), ("prolora", B), ("rotate", B), ("auto", S)]
METHODS = ("lego", "concat", "linear", "svd", "ties", "dare", "della", "magnitude", "knots", "core-ties", "tsv", "iso")


def commands() -> dict[str, list[str]]:
    """Name → arguments without the output, paths relative to the models folder."""
    found = {}
    for method, target in MOVES:
        for lora in (LORAS[0], "loras/family_frame_lorax_a.safetensors"):
            arguments = ["transfer", lora, "--source", A, "--target", target, "--method", method]
            found[f"transfer {Path(lora).stem} {method} → {Path(target).stem}"] = arguments
    for method in METHODS:
        found[f"merge {method}"] = ["merge", *(f"{lora}:0.8" for lora in LORAS), "--method", method, "--rank", "12"]
    for units in ("canonical", "balanced", "paper"):
        found[f"merge lego {units}"] = ["merge", *LORAS, "--units", units, "--rank", "8", "--seed", "3"]
    for rank in ("2", "4"):
        found[f"resize {rank}"] = ["resize", LORAS[0], "--rank", rank]
    for layout in ("kohya", "comfy", "diffusers", "peft"):
        found[f"convert {layout}"] = ["convert", LORAS[0], "--layout", layout]
    return found


def digest(file: Path) -> str:
    """SHA-256 of every tensor's name, type, shape and bytes, in order of the names."""
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body, result = json.loads(raw[8 : 8 + size]), raw[8 + size :], hashlib.sha256()
    header.pop("__metadata__", None)
    for name in sorted(header):
        entry = header[name]
        begin, end = entry["data_offsets"]
        result.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
        result.update(body[begin:end])
    return result.hexdigest()


def outcome(clone: Path, models: Path, arguments: list[str], out: Path) -> str:
    """The digest of what the clone's command writes, or the first line of its refusal."""
    done = subprocess.run(
        [sys.executable, str(clone), *arguments, "-o", str(out)], cwd=models, capture_output=True, text=True
    )
    return digest(out) if done.returncode == 0 else f"refused ({done.returncode})"


def main() -> int:
    old, new = (Path(argument).resolve() for argument in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        subprocess.run([sys.executable, str(new), "examples", folder], check=True, capture_output=True)
        asked, different, refused = commands(), [], []
        for number, (name, arguments) in enumerate(asked.items()):
            was, now = (
                outcome(clone, models, arguments, models / f"{number}_{i}.safetensors")
                for i, clone in enumerate((old, new))
            )
            if was != now:
                different.append(name)
                print(f"differs: {name}: {was[:20]} / {now[:20]}", flush=True)
            elif was.startswith("refused"):
                refused.append(name)
    print(f"{len(asked)} commands: {len(asked) - len(different)} the same, {len(different)} differ")
    if refused:
        print(f"refused by both: {', '.join(refused)}")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
