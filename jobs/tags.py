"""What trainers leave in an adapter's metadata: the base, the trigger words, the tags of the training images.

The keys are those of kohya's sd-scripts (``ss_…``) and of the ModelSpec standard (``modelspec.…``). Everything here
takes metadata as it comes: a value that cannot be understood counts as absent.
"""

from __future__ import annotations

import json
import re
from collections import Counter

BASE_KEYS = (
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_sd_model_name",
    "base_model",
    "baseModel",
    "base_model_name_or_path",
)
TRIGGER_KEYS = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_words", "trigger_word", "activation text")


def base_hints(metadata: dict[str, str]) -> dict[str, str]:
    """The entries that name the base the adapter was trained on."""
    return {key: metadata[key] for key in BASE_KEYS if metadata.get(key) and metadata[key] != "None"}


def tag_counts(metadata: dict[str, str]) -> Counter[str]:
    """How often each tag stood in the captions, over all training folders (``ss_tag_frequency``)."""
    counts: Counter[str] = Counter()
    for tags in _folders(metadata).values():
        for tag, count in tags.items():
            if isinstance(tag, str) and tag.strip() and isinstance(count, int | float):
                counts[tag.strip()] += int(count)
    return counts


def trigger_words(metadata: dict[str, str]) -> list[str]:
    """Words that call the adapter: those declared, else the names of the training folders (``10_name``)."""
    declared = [_listed(metadata[key]) for key in TRIGGER_KEYS if metadata.get(key)]
    if declared:
        return list(dict.fromkeys(word for words in declared for word in words))
    folders = [*_folders(metadata), *_parsed(metadata.get("ss_dataset_dirs"))]
    named = [match[1].strip() for match in (re.fullmatch(r"\d+_(.+)", folder) for folder in folders) if match]
    return list(dict.fromkeys(named))


def _listed(value: str) -> list[str]:
    """A JSON list, or words between commas."""
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    words = parsed if isinstance(parsed, list) else value.split(",")
    return [str(word).strip() for word in words if str(word).strip()]


def _folders(metadata: dict[str, str]) -> dict[str, dict]:
    return {f: tags for f, tags in _parsed(metadata.get("ss_tag_frequency")).items() if isinstance(tags, dict)}


def _parsed(value: str | None) -> dict:
    try:
        parsed = json.loads(value or "{}")
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
