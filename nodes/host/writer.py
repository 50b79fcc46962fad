"""ComfyUI's CLIP as a language model that writes: Qwen, Gemma and other text encoders with a way back to words."""

from __future__ import annotations

import inspect

from ...errors import SettingsError
from .work import check_cancelled

LONGEST = 768  # tokens of an answer; 16 prompts of a usual length have about 400
SAMPLING = {"top_k": 64, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.05}  # as the host's Generate Text
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"


class ClipWriter:
    """A CLIP with the face that ``jobs/distill/writer.py`` asks for: ``writer(text, temperature, seed) -> str``.

    The host moves its progress bar with every token and ends the work when the user cancels.

    Raises:
        SettingsError: a text encoder that only encodes.
    """

    def __init__(self, clip):
        self.clip, self.network = clip, _network(clip)
        if self.network is None:
            raise SettingsError(
                f"the connected CLIP ({type(clip.cond_stage_model).__name__.strip('_')}) cannot write: it turns text "
                "into conditioning only",
                hint="Load a language model with Load CLIP, for example a Qwen3 or Gemma text encoder, or leave the "
                "input open: then the prompts come from tags, seed prompts and template.",
            )

    def __call__(self, text: str, temperature: float, seed: int) -> str:
        check_cancelled()
        tokens = self.clip.generate(
            self._tokens(text), do_sample=True, max_length=LONGEST, temperature=temperature, seed=seed, **SAMPLING
        )
        written = self.clip.decode(tokens)
        # What was cut off at the limit ends in half a prompt.
        return written.rpartition("\n")[0] if len(tokens) >= LONGEST and "\n" in written else written

    def _tokens(self, text: str):
        """The text as a user's message, in the model's own form of a conversation where the host knows it.

        Qwen encoders of image models come with the template of those (describe the image …) or without one; they get
        the plain one of a conversation.
        """
        more = {"skip_template": False, "min_length": 1, "thinking": False}
        kind, tokenizer = type(self.network).__name__, self.clip.tokenizer
        if kind.startswith("Qwen"):
            message = CHAT.format(text) + ("" if kind.startswith("Qwen25") else NO_THOUGHT)
            if "llama_template" in inspect.signature(tokenizer.tokenize_with_weights).parameters:
                return self.clip.tokenize(message, llama_template="{}", **more)
            if not hasattr(tokenizer, "llama_template"):
                return self.clip.tokenize(message, **more)
        return self.clip.tokenize(text, **more)


def _network(clip):
    """The part of the CLIP that writes, or None."""
    import comfy.text_encoders.llama as llama

    able = getattr(llama, "BaseGenerate", None)
    if able is None or not hasattr(clip, "generate") or not hasattr(clip.cond_stage_model, "generate"):
        return None
    return next((part for part in clip.cond_stage_model.modules() if isinstance(part, able)), None)
