"""Language models: Trans-LoRA (arXiv 2405.17258) on text, with the libraries transformers and peft.

Both are imported when a model is opened, not before; :mod:`.settings` and :mod:`.examples` are free of them.
"""
