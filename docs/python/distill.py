"""Teach a base what a LoRA does on another, from synthetic pictures: python docs/python/distill.py

Distilling needs models that draw and learn, not only their weights: anything with the face of
``lora_graft.jobs.distill.denoiser.Denoiser``. ComfyUI's models get it from the nodes; here the example models have it.
The numbers are those of a quick look; use some hundred steps for a real adapter.
"""

import lora_graft
from example_files import FRAME, OUT, model
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.distill import Distillation
from lora_graft.jobs.distill.generate import Generation, generate
from lora_graft.jobs.distill.schedule import Training

frame = lora_graft.read(FRAME)
teacher, student = Teacher(model("a"), [model("a", frame)]), model("b")
prompts = ["red digit two", "a green three", "white digit zero", "number four in blue ink"]
dataset = generate(teacher, student, prompts, Generation(count=16, drawing=Drawing(64, 64, steps=4, cfg=1.0)))
settings = Distillation(rank=4, training=Training(steps=4, batch=8, accumulation=1))
result = lora_graft.distill(dataset, teacher, student, [frame], settings)
print(result.report.to_markdown())
lora_graft.write(result.adapter, OUT / "frame_distilled.safetensors", provenance=result.provenance, overwrite=True)
