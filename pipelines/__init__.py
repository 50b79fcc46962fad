"""Models of the diffusers library as teachers and students, so that distilling runs without ComfyUI.

diffusers and transformers are the optional extra ``distill``; they are imported when a model is opened, never before.
Nothing here reaches for a network: what a model needs lies in its folder, or in one that is given beside a single file.
"""

from .models import Models, open_models

__all__ = ["Models", "open_models"]
