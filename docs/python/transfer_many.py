"""Every LoRA of a folder moved to another base model: python docs/python/transfer_many.py"""

import lora_graft
from example_files import BASE_A, BASE_B, FRAME, OUT

if __name__ == "__main__":  # the processes that share the work read this file too
    outcomes = lora_graft.transfer_many(FRAME.parent / "family_*_a.safetensors", BASE_A, BASE_B, OUT / "for_b")
    for outcome in outcomes:
        print(outcome.file.name, outcome.status, outcome.kept_energy, outcome.error)
