"""A LoRA at smaller ranks: python docs/python/resize.py"""

import lora_graft
from example_files import FRAME, OUT

result = lora_graft.resize(FRAME, rule="energy", amount=0.9)
print(result.report.totals)
lora_graft.write(result.adapter, OUT / "frame_small.safetensors", provenance=result.provenance, overwrite=True)
