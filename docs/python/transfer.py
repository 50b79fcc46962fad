"""A LoRA moved to another base model: python docs/python/transfer.py"""

import lora_graft
from example_files import BASE_A, BASE_B, FRAME, OUT

result = lora_graft.transfer(FRAME, source=BASE_A, target=BASE_B, method="auto")
print(result.report.method, result.report.totals["kept_energy"])
(OUT / "transfer.md").write_text(result.report.to_markdown(), encoding="utf-8")
lora_graft.write(result.adapter, OUT / "frame_for_b.safetensors", provenance=result.provenance, overwrite=True)
