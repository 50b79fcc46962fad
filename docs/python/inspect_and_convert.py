"""What an adapter is, and the same adapter under other key names: python docs/python/inspect_and_convert.py"""

import lora_graft
from example_files import FRAME, OUT

found = lora_graft.inspect(FRAME)
print(found.to_text())

adapter = lora_graft.convert(FRAME, "diffusers")
path = lora_graft.write(adapter, OUT / "frame_diffusers.safetensors", dtype="bf16", overwrite=True)
print(f"{found.layout} became {lora_graft.read(path).layout}: {path}")
