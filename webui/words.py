"""The page's words. English is here and in the table of fields; other languages are files in ``locales/``."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from ..choices import Page
from .fields import Field

LOCALES = Path(__file__).resolve().parent.parent / "locales"
LANGUAGES = tuple(name for name in Page.languages if name != Page.language)
ENGLISH = {
    "transfer": "Transfer",
    "merge": "Merge",
    "resize": "Resize",
    "similarity": "Similarity",
    "convert": "Convert",
    "inspect": "Inspect",
    "shelf": "Shelf",
    "distill": "Distil",
    "about transfer": "A LoRA of one base model, rebuilt for another from the two models' weights alone.",
    "about merge": "Several LoRAs of any ranks, formats and trainers as one.",
    "about resize": "One LoRA at a smaller rank.",
    "about similarity": "How much of two base models' leading directions agree, weight by weight.",
    "about convert": "The same LoRA under other key names.",
    "about inspect": "What a LoRA file is: format, likely base, ranks, norms, trigger words.",
    "about shelf": "Many LoRAs for another base model in one job. Results that are there already are left alone.",
    "about distill": "Teaches a base model what LoRAs do on another, from pictures that it draws itself. Takes minutes "
    "to hours; when it is stopped, the best so far is kept.",
    "more": "More options",
    "start": "Start",
    "refresh": "Refresh lists",
    "add": "Add a LoRA to the text",
    "jobs": "Jobs",
    "show": "Show the job",
    "stop": "Stop this job",
    "nothing": "Nothing has been started yet.",
    "lined up": "Job {} is lined up.",
    "refused": "Another site asked for this.",
    "waiting": "waiting",
    "running": "running",
    "stopping": "stopping",
    "done": "done",
    "failed": "failed",
    "stopped": "stopped",
    "left": "{} left",
    "took": "took {}",
    "new": "New LoRA",
    "copy": "Copy",
    "send": "Send to txt2img",
}


@lru_cache
def _stored(language: str) -> dict:
    if language not in LANGUAGES or language == "en":
        return {}
    return json.loads((LOCALES / language / "webui.json").read_text(encoding="utf-8"))


def word(language: str, name: str) -> str:
    """A word or sentence of the page; English where the language lacks it."""
    return _stored(language).get("words", {}).get(name) or ENGLISH[name]


def label(language: str, kind: str, field: Field) -> tuple[str, str]:
    """(label, help) of a field: those of this job before those of all."""
    texts = _stored(language).get("fields", {})
    for entry in (texts.get(f"{kind}.{field.name}"), texts.get(field.name)):
        if entry:
            return entry["name"], entry.get("tooltip", "")
    return field.label, field.help


def language_of(name: str) -> str:
    """The language for a name as systems and hosts have them: "zh_CN.UTF-8", "zh-Hans (Stable)", "chinese-all"."""
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"
