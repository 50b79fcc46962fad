"""Teach a base what a LoRA does on another, from synthetic pictures: python docs/python/distill.py

The bases are diffusers folders (or files, see ``source_parts``), opened by the diffusers library; the example models
here have networks of their own. The numbers are those of a quick look; use some hundred steps for a real adapter.
"""

import lora_graft
from example_files import BASE_A, BASE_B, FRAME, OUT, model
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.distill import Distillation
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.schedule import Training

result = lora_graft.distill(
    FRAME,
    source=BASE_A,
    target=BASE_B,
    prompts=["red digit two", "a green three", "white digit zero", "number four in blue ink"],
    count=16,
    rank=4,
    steps=4,
    accumulation=1,
)
print(result.report.to_markdown())
lora_graft.write(result.adapter, OUT / "frame_distilled.safetensors", provenance=result.provenance, overwrite=True)

# Models that something else has opened, with the face of lora_graft.jobs.distill.denoiser.Denoiser, learn as well.
frame = lora_graft.read(FRAME)
teacher, student = Teacher(model("a"), [model("a", frame)]), model("b")
dataset = generate(teacher, student, ["a green three"], Generation(count=8, drawing=Drawing(64, 64, steps=4, cfg=1.0)))
settings = Distillation(rank=4, training=Training(steps=2, batch=8, accumulation=1))
print(lora_graft.distill(dataset, teacher, student, [frame], settings).report.summary())
