"""One LoRA, or many, to another base, and how alike two bases are."""
