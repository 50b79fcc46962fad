"""The example models as files, for the scripts beside this one: put your own file names in their place."""

from pathlib import Path

from lora_graft.family import denoiser, materialize

OUT = Path("out/python")
OUT.mkdir(parents=True, exist_ok=True)
FILES = {
    name.removeprefix("family_"): path
    for name, path in materialize.materialize(OUT / "models", text_encoder=False).items()
}
BASE_A, BASE_B = FILES["a"], FILES["b"]
FRAME, SLANT, STRIPES = FILES["frame_a"], FILES["slant_a"], FILES["stripes_a"]


def model(letter, *adapters):
    """A base that can draw and learn, with adapters on it (``jobs.distill.denoiser.Denoiser``)."""
    paths = {f"family_{name}": path for name, path in FILES.items()}
    return denoiser.FamilyDenoiser(letter, paths, [(adapter, 1.0) for adapter in adapters])
