"""Several LoRAs into one, and one LoRA at another rank."""
