"""Work inside ComfyUI: where it runs, how far it is, and whether the user wants it to stop."""

from __future__ import annotations

import time

import torch


def check_cancelled() -> None:
    """Raises the host's InterruptProcessingException when the user pressed cancel."""
    import comfy.model_management as mm

    mm.throw_exception_if_processing_interrupted()


def device() -> torch.device:
    """The host's compute device, or the CPU where the device has no float64, which the numerical checks need."""
    import comfy.model_management as mm

    device = mm.get_torch_device()
    return device if device.type == "cuda" else torch.device("cpu")


class Progress:
    """A job's progress callback: moves the node's bar and ends the job when the user cancels.

    spoken: also show the label and the time left under the node, for work that takes minutes.
    """

    def __init__(self, *, spoken: bool = False):
        self._bar, self._spoken = None, spoken
        self._began = self._last_message = time.monotonic()
        self._total, self._first = None, 0

    def __call__(self, done: int, total: int, label: str = "", preview=None) -> None:
        import comfy.utils

        check_cancelled()
        now = time.monotonic()
        if self._bar is None or total != self._total or done < self._bar.current:
            self._bar = comfy.utils.ProgressBar(total)  # another phase; the host's bars only go forward
            self._total, self._first, self._began = total, done, now
        self._bar.update_absolute(done, total, preview)
        if self._spoken and label and (now - self._last_message > 1 or done >= total):
            self._last_message = now
            _say(label + self._left(done, total, now))

    def show(self, image) -> None:
        """A preview, as a PIL image, in the node."""
        if self._bar is not None:
            self._bar.update_absolute(self._bar.current, self._bar.total, ("JPEG", image, 512))

    def _left(self, done: int, total: int, now: float) -> str:
        if done - self._first < 2:
            return ""
        seconds = (now - self._began) / (done - self._first) * (total - done)
        return f", {seconds // 60:.0f} min {seconds % 60:.0f} s left" if seconds >= 60 else f", {seconds:.0f} s left"


def _say(text: str) -> None:
    """A line of text under the node that runs."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
