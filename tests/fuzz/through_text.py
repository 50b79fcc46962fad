"""Metadata, prompt templates, node fields and options: what comes in as text."""

from __future__ import annotations

import importlib
import json
import math
import sys
from functools import cache
from random import Random
from types import ModuleType

import containers
import corpus
import hostile
from entrances import entrance
from promise import Broken, Sandbox
from through_files import good
from through_servers import graph


@entrance("adapter: metadata")
def metadata(random: Random, box: Sandbox) -> str:
    """Good tensors under metadata of all kinds, read by the inspection, the prompts and the reports."""
    import lora_graft

    file = random.choice((corpus.fitting(), corpus.adapters()["diffusers"], corpus.adapters()["bundle"]))
    made = {}
    for key, text in {**corpus.METADATA, **file.metadata}.items():
        if random.random() < 0.3:
            continue
        try:
            text = hostile.written(random, hostile.changed(random, json.loads(text), 0.8))
        except ValueError:
            text = hostile.plain_text(random) if random.random() < 0.5 else text
        made[hostile.plain_text(random) if random.random() < 0.05 else key] = text
    for name in (
        "trigger_words",
        "instance_prompt",
        "modelspec.trigger_phrase",
        "lora_adapter_metadata",
        "lora_graft.peft_config",
    ):
        if random.random() < 0.15:
            made[name] = (
                hostile.written(random, hostile.changed(random, corpus.PEFT, 1.0))
                if "_" in name and random.random() < 0.8
                else hostile.plain_text(random)
            )
    file = containers.File(file.tensors, {k: t.encode("utf-8", "replace").decode() for k, t in made.items()})
    lora = box.put("lora.safetensors", file.to_bytes())
    outcome = box.cli("inspect", *(["--json"] if random.random() < 0.3 else []), lora)
    if random.random() < 0.5:
        box.call(lambda: _prompts(random, lora_graft.read(lora)))
    else:
        box.cli("resize", "--rank", "1", "-o", box.out / "x.safetensors", lora, writes=(box.out / "x.safetensors",))
    return outcome


def _prompts(random: Random, adapter, template: str | None = None):
    from lora_graft.jobs.distill.prompts import PromptSettings, synthesize

    seeds = [hostile.text(random) for _ in range(random.randrange(4))]
    chosen = template or random.choice(corpus.TEMPLATES)
    made = synthesize(
        PromptSettings(seeds=seeds, adapter=adapter, template=chosen, count=random.choice((1, 8, 32)), seed=1)
    )
    if len(made.lines) < 1 or any("\n" in line for line in made.lines):
        raise Broken("wrong", "a prompt of several lines")
    made.text.encode()


@entrance("template")
def template(random: Random, box: Sandbox) -> str:
    import lora_graft

    lora = box.put("lora.safetensors", good("lora"))
    adapter = lora_graft.read(lora) if random.random() < 0.5 else None
    text = hostile.bitten(random, random.choice(corpus.TEMPLATES).encode()).decode("utf-8", "replace")
    roll = random.random()
    if roll < 0.3:
        pieces = "{}|:\\,123 \n" + "".join(corpus.TEMPLATES)
        text = "".join(random.choice(pieces) for _ in range(random.choice((3, 10, 60))))
    elif roll < 0.35:
        text = "{a|" * random.choice((10, 1000, 50_000)) + "b" + "}" * random.choice((10, 1000, 50_000))
    elif roll < 0.4:
        text = f"{'9' * random.choice((5, 400, 9000))}::a\n{random.choice((0.0000001, 1e-300))}::b"
    elif roll < 0.5:
        text += hostile.text(random)
    return box.call(lambda: _prompts(random, adapter, text or " "))


@entrance("node text: strengths")
def strengths(random: Random, box: Sandbox) -> str:
    parse = _node("merging").parse_strengths
    text = random.choice(("0.8, 1:0.5, -0.3", "1", "1:2;3\n4"))
    text = (
        hostile.bitten(random, text.encode()).decode("utf-8", "replace")
        if random.random() < 0.6
        else hostile.text(random)
    )

    def check(pairs) -> None:
        if not pairs or not all(math.isfinite(x) for pair in pairs for x in pair):
            raise Broken("wrong", f"a strength that is not a number: {text[:40]!a}")

    return box.call(lambda: parse(text), check)


@cache
def _node(name: str):
    """A module of the nodes with a stand-in for the host. For a process that does nothing else."""
    kind = type("Kind", (type,), {"__getattr__": lambda cls, name: cls, "__call__": lambda cls, *a, **k: cls})
    anything = type.__call__(kind, "Anything", (), {})
    names = ("comfy", "comfy.model_management", "comfy_api", "comfy_api.latest")
    fakes = {name: ModuleType(name) for name in names}
    fakes["comfy"].model_management = fakes["comfy.model_management"]
    for attribute in ("io", "ui", "ComfyExtension"):
        setattr(fakes["comfy_api.latest"], attribute, anything)
    sys.modules |= fakes
    return importlib.import_module(f"lora_graft.nodes.{name}")


@entrance("command line")
def options(random: Random, box: Sandbox) -> str:
    lora, out = box.put("lora.safetensors", good("lora")), box.out / "x.safetensors"
    names = (
        "--rank", "--k", "--k-share", "--energy", "--threshold", "--strength", "--density", "--seed", "--method",
        "--layout", "--dtype", "--units",
        "--ratio", "--cumulative", "--frobenius", "--max-rank", "--tags", "--base",
        "--json", "--lego", "--force", "--no-cache", "--device", "--all", "--set", "--server", "--patience",
        "--ahead", "--nonsense",
    )  # fmt: skip
    command = random.choice(("inspect", "merge", "resize", "convert", "transfer", "similarity", "batch"))
    words: list[object] = [command, lora]
    if command == "transfer":
        a = box.put("a.safetensors", good("base a"))
        words += ["--source", a, "--target", a]
    if command == "similarity":
        words = [command, lora, lora]
    if command == "batch":
        words = [command, box.put("graph.json", json.dumps(graph())), "--dry-run", "--server", "http://127.0.0.1:9"]
    if command in ("merge", "resize", "convert", "transfer"):
        words += ["-o", out]
    for _ in range(random.randrange(4)):
        words.append(random.choice(names))
        if random.random() < 0.8:
            odd = random.choice((hostile.plain_text(random), str(hostile.number(random)), "kohya", "copy", "0.5", "2"))
            words.append(odd.replace("\0", ""))
    # A --server of luck would be asked for real: only addresses of this machine, where nothing listens.
    if command == "batch":
        words = [w for i, w in enumerate(words) if w != "--server" or words[i + 1 : i + 2] == ["http://127.0.0.1:9"]]
    return box.cli(*words, writes=(out,) if "-o" in words else ())
