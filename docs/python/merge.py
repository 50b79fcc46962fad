"""Several LoRAs as one, from files and from bare tensors: python docs/python/merge.py"""

import lora_graft
import torch
from example_files import FRAME, OUT, SLANT, STRIPES
from lora_graft.kernels.lowrank import LowRank
from lora_graft.kernels.merge import METHODS, lego, ties

result = lora_graft.merge([FRAME, (SLANT, 0.7), (STRIPES, -0.3)], method="lego", rank=8)
print(result.report.totals)
lora_graft.write(result.adapter, OUT / "merged.safetensors", provenance=result.provenance, overwrite=True)

# One weight, two LoRAs of different ranks: up (m, r), down (r, n), alpha.
first = LowRank.of(torch.randn(320, 4), torch.randn(4, 768), alpha=2)
second = LowRank.of(torch.randn(320, 8), torch.randn(8, 768))
merged = lego([first, second], rank=6, seed=1)
print(merged.update.rank, merged.error, merged.clusters)
print(ties([first, second], rank=6, density=0.3).error)
for method in METHODS.values():
    print(f"{method.name}: {method.paper}; options: {dict(method.options)}")
