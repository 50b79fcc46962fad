"""Every combination of the values, each a prompt of its own."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass

from ..errors import SettingsError
from ..untrusted import real_text
from .catalogue import Catalogue
from .values import expand
from .workflow import NodeInput, Workflow, identity

MOST = 100_000


@dataclass(frozen=True)
class Job:
    """id: hash of the prompt; prompt: nodes as the API takes them; values: what was set, by the user's names."""

    id: str
    prompt: dict[str, dict]
    values: dict[str, object]

    @property
    def label(self) -> str:
        """The values, short, for people."""
        return ", ".join(str(v) for v in self.values.values()) or "the workflow as it is"

    @property
    def stem(self) -> str:
        """Beginning of the names of its files: the values and some of the hash."""
        words = [re.sub(r"\.(safetensors|ckpt|pt|sft|png|jpe?g|webp)$", "", str(v)) for v in self.values.values()]
        words = [re.sub(r"[^\w.=-]+", "-", word).strip("-.")[:40] for word in words]
        return "_".join([*filter(None, words)])[:100] + ("_" if any(words) else "") + self.id[:8]


def assignments(sets: list[str], workflow: Workflow, catalogue: Catalogue) -> list[tuple[NodeInput, list]]:
    """The inputs to vary with their values; several ``--set`` of one input make one longer list.

    Raises:
        SettingsError: wrong form, unknown node or input, a value that does not fit, nothing matched.
    """
    found: dict[tuple[str, str], tuple[NodeInput, list]] = {}
    for text in sets:
        if real_text(text) != text:
            raise SettingsError(f"--set {text}: it holds half a character, which no server takes")
        name, equals, values = text.partition("=")
        if not equals:
            raise SettingsError(f"--set {text}: there is no =", hint='Write --set "NODE.INPUT=VALUES".')
        node_input = workflow.node_input(name.strip(), catalogue)
        kept = found.setdefault((node_input.node, node_input.input), (node_input, []))[1]
        kept += [v for v in expand(values, node_input.spec, name.strip()) if v not in kept]
    return list(found.values())


def combine(workflow: Workflow, chosen: list[tuple[NodeInput, list]]) -> list[Job]:
    """Every combination, the last input changing fastest; equal prompts once.

    Raises:
        SettingsError: more than MOST of them.
    """
    count = math.prod(len(values) for _, values in chosen)
    if count > MOST:
        raise SettingsError(f"{count} combinations are too many; at most {MOST} go into one batch")
    jobs: dict[str, Job] = {}
    inputs = [node_input for node_input, _ in chosen]
    for values in itertools.product(*(values for _, values in chosen)):
        prompt = workflow.filled({(i.node, i.input): v for i, v in zip(inputs, values, strict=True)})
        named = {i.name: v for i, v in zip(inputs, values, strict=True)}
        job = Job(identity(prompt), prompt, named)
        jobs.setdefault(job.id, job)
    return list(jobs.values())
