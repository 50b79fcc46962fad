"""Jobs as the page's routes get them, and recipes: what comes in as a description of work."""

from __future__ import annotations

import json
from random import Random

import hostile
from entrances import entrance
from promise import Broken, Sandbox, check_markdown, check_output
from through_files import good

RECIPE = {
    "output": "../out",
    "cache": "../../../cache",
    "bases": {"old": "a.safetensors", "new": "b.safetensors"},
    "transfers": [
        {
            "name": "moved",
            "loras": ["lora*.safetensors"],
            "source": "old",
            "targets": ["new"],
            "methods": ["copy", "lora-x"],
            "layouts": ["same", "diffusers"],
            "k": 2,
            "strength": 0.5,
            "rank": 2,
            "report": "md",
        }
    ],
    "merges": [
        {
            "name": "mix",
            "loras": ["lora.safetensors", {"file": "lora2.safetensors", "strength": 0.5, "clip": 1}],
            "method": "ties",
            "density": 0.3,
            "rank": 3,
            "base": "old",
        }
    ],
}
JOBS = {
    "transfer": {"lora": "lora", "source": "a", "target": "b", "output": "x", "method": "copy", "strength": 0.5},
    "merge": {"loras": "<lora:lora:0.8> <lora:lora2:0.5:1>", "output": "x", "method": "ties", "rank": "4"},
    "resize": {"lora": "lora", "rank": 2, "output": "x"},
    "similarity": {"source": "a", "target": "b", "k": 2},
    "convert": {"lora": "lora", "layout": "diffusers", "output": "x"},
    "inspect": {"lora": "lora"},
    "shelf": {"loras": ["lora", "lora2"], "source": "a", "target": "b", "folder": "moved", "method": "copy"},
}


def _files(box: Sandbox) -> None:
    for name, of in {"a": "base a", "b": "base b", "lora": "lora", "lora2": "lora"}.items():
        box.put(f"{name}.safetensors", good(of))


@entrance("recipe")
def recipe(random: Random, box: Sandbox) -> str:
    """A recipe read: every output known, every mistake told; YAML holds JSON, and some are made to be only YAML."""
    from lora_graft.shelf import recipe as recipes

    _files(box)
    roll = random.random()
    text = json.dumps(RECIPE) if roll < 0.1 else hostile.written(random, hostile.changed(random, RECIPE, 0.5))
    if roll > 0.9:
        text = random.choice(_YAML) + text
    elif roll > 0.7:
        text = hostile.bitten(random, text.encode("utf-8", "replace")).decode("utf-8", "replace")
    path = box.put("recipe.yaml", text)

    def check(found) -> None:
        outside = [output for output in found.ids if not output.is_relative_to(found.output)]
        if outside or not found.ids:
            raise Broken("wrong", f"outputs outside the folder: {outside[:1]!a}" if outside else "nothing to do")

    return box.call(lambda: recipes.read(path), check)


_YAML = (
    "&a [*a, *a]\n---\n",
    "x: &x [1,1,1,1,1,1,1,1,1]\ny: &y [*x,*x,*x,*x,*x,*x,*x,*x]\nz: &z [*y,*y,*y,*y,*y,*y,*y]\nw: [*z,*z,*z,*z]\n",
    "!!python/object/apply:os.system ['true']\n",
    "--- !<tag:yaml.org,2002:binary> ZZ\n---\n",
    "? {a: [b]}\n: c\n",
    "%YAML 9.9\n---\n",
    "\t",
)


@entrance("page: jobs")
def page(random: Random, box: Sandbox) -> str:
    """A body as the routes take it, checked, and where it is taken the job done by the page's own work."""
    from lora_graft.webui.alone import Alone
    from lora_graft.webui.check import checked
    from lora_graft.webui.tasks import look_up, run

    _files(box)
    kind = random.choice(list(JOBS))
    given = JOBS[kind] if random.random() < 0.1 else hostile.changed(random, JOBS[kind], 0.4)
    host = type("CpuHost", (Alone,), {"device": "cpu"})([box.inputs], [box.inputs], box.out)

    def work():
        values = checked(kind, given)
        look_up(kind, values, host)
        return run(kind, values, host, lambda done, total, label="", *more: None)

    def check(result) -> None:
        check_markdown(result.markdown)
        json.dumps(result.data, allow_nan=False)
        for path in box.out.rglob("*.safetensors"):
            check_output(path)

    return box.call(work, check)
