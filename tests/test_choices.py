"""choices.py against what it speaks of: the registries, the nodes' inputs, the command line, the jobs' settings."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import MISSING, fields
from enum import Enum
from typing import get_args, get_type_hints

import pytest
from lora_graft.adapters.layouts import DTYPES
from lora_graft.batch.run import Order
from lora_graft.choices import (
    Batch,
    Dataset,
    Distill,
    Drawing,
    Effort,
    Engines,
    File,
    Inspect,
    Learning,
    Merge,
    Page,
    Pipelines,
    Prompts,
    Resize,
    Subspace,
    Text,
    Transfer,
    Work,
)
from lora_graft.cli.app import app
from lora_graft.jobs.distill import denoiser, distill, generate, prompts, schedule
from lora_graft.jobs.merge import merge, resize
from lora_graft.jobs.merge.files import DTYPES as MERGED_DTYPES
from lora_graft.jobs.transfer.transfer import TransferSettings
from lora_graft.kernels.distill.students import STUDENTS
from lora_graft.kernels.merge import METHODS as MERGING
from lora_graft.kernels.merge.resize import RULES
from lora_graft.kernels.spectral import SubspaceSize
from lora_graft.kernels.transfer import METHODS as TRANSFERRING
from lora_graft.kernels.units import auto_rank
from lora_graft.language.settings import TextData, TextDistillation
from lora_graft.names import Names, WeightSlice


def test_a_registered_name_is_a_choice_and_the_other_way_round():
    assert tuple(TRANSFERRING) == Transfer.methods
    assert tuple(MERGING) == Merge.methods
    assert tuple(RULES) == Resize.rules
    assert tuple(STUDENTS) == Distill.kinds


def test_which_methods_read_an_option_is_what_their_signatures_say():
    found = defaultdict(list)
    for method in MERGING.values():
        for option in method.options:
            found[option].append(method.name)
    assert Merge.readers == {option: tuple(names) for option, names in found.items() if len(names) > 1}


def test_methods_called_from_python_have_the_same_defaults():
    for method in MERGING.values():
        for option, default in method.options.items():
            assert getattr(Merge, option, default) == default, f"{option} of {method.name}"
    assert inspect.signature(auto_rank).parameters["energy"].default == Merge.energy
    assert SubspaceSize().resolve((400, 800)) == 400 * Subspace.k_share


def test_what_a_file_may_be_is_what_can_be_written():
    assert {*DTYPES, *MERGED_DTYPES} == {None, "same", *File.dtypes}
    names = Names({})
    for layout in File.layouts:
        names.layout_key(WeightSlice("diffusion_model.x.weight"), layout)
    with pytest.raises(ValueError, match="unknown layout"):
        names.layout_key(WeightSlice("diffusion_model.x.weight"), "another")


def test_a_default_is_on_its_list():
    for page, listed, default in (
        (Work, "devices", "device"),
        (Subspace, "subspaces", "subspace"),
        (Transfer, "filters", "below_threshold"),
        (Transfer, "matchings", "match_blocks"),
        (Transfer, "fills", "fill"),
        (Merge, "methods", "method"),
        (Merge, "ranks", "rank"),
        (Merge, "unit_forms", "units"),
        (Resize, "rules", "rule"),
        (Distill, "objectives", "objective"),
        (Distill, "kinds", "kind"),
        (Distill, "module_sets", "modules"),
        (Distill, "schedules", "schedule"),
        (Distill, "dtypes", "dtype"),
        (Text, "objectives", "objective"),
        (Text, "kinds", "kind"),
        (Text, "module_sets", "modules"),
    ):
        assert getattr(page, default) in getattr(page, listed)
    assert Transfer.method in ("auto", *Transfer.methods) and File.layout in ("same", *File.layouts)


# Where an option's name differs from the one in choices.py.
OTHER_NAMES = {"lessons": "noisy_latents", "sampler_name": "sampler", "most": "max_rank", "where": "modules"}
LISTS = {
    "method": "methods",
    "subspace": "subspaces",
    "below_threshold": "filters",
    "match_blocks": "matchings",
    "fill": "fills",
    "rank": "ranks",
    "units": "unit_forms",
    "rule": "rules",
    "dtype": "dtypes",
    "layout": "layouts",
    "device": "devices",
    "effort": "efforts",
    "engine": "engines",
    "language": "languages",
    "objective": "objectives",
    "kind": "kinds",
    "modules": "module_sets",
    "schedule": "schedules",
    "precision": "precisions",
    "offload": "switches",
    "checkpointing": "switches",
}
OWN_WORDS = {"auto", "same", "fixed"}  # what an option says for "not given" or "the number beside"
MISSED = object()


def default_of(pages, option: str) -> object:
    """The default that the pages have for an option; the first page wins."""
    return next((vars(page)[option] for page in pages if option in vars(page)), MISSED)


def hold(option: str, default: object, words: list | None, pages, own, whose: str) -> None:
    """Check one option; 0 or -1 stands for None where None cannot be said."""
    if option in own:
        return
    expected = default_of(pages, OTHER_NAMES.get(option, option))
    assert expected is not MISSED, f"{whose}: choices.py has no default for {option}"
    same = default == expected or (expected is None and default in (0, -1, "same"))
    assert same, f"{whose}: {option} is {default!r}, in choices.py {expected!r}"
    listed = default_of(pages, LISTS.get(option, ""))
    if words is not None and listed is not MISSED:
        assert [w for w in words if w not in OWN_WORDS] == [w for w in listed if w not in OWN_WORDS], whose


SETTINGS = [
    (TransferSettings, [Transfer], set()),
    (merge.MergeSettings, [Merge, File], set()),
    (resize.ResizeSettings, [Resize, File], set()),
    (distill.Distillation, [Distill], {"effort"}),
    (schedule.Training, [Learning, Distill], {"checkpointing"}),
    (denoiser.Drawing, [Drawing], set()),
    (TextData, [Text, Distill], {"seeds", "prompts", "pairs", "generator", "discriminator"}),
    (TextDistillation, [Text, Distill, Pipelines], set()),
    (generate.Generation, [Dataset], {"count"}),
    (prompts.PromptSettings, [Prompts], {"seeds", "adapter"}),
    (Order, [Batch], {"leave", "grace"}),
]


@pytest.mark.parametrize(("settings", "pages", "own"), SETTINGS, ids=[s.__name__ for s, *_ in SETTINGS])
def test_settings_have_the_defaults_of_choices(settings, pages, own):
    for field in fields(settings):
        if field.default is not MISSING:
            hold(field.name, field.default, None, pages, own, settings.__name__)


COMMANDS = {
    "inspect": [Inspect],
    "similarity": [Work],
    "transfer": [Transfer, File, Work, Engines],
    "merge": [Merge, File, Work],
    "resize": [Resize, File, Work],
    "convert": [File],
    "distill": [File, Pipelines, Distill, Dataset, Text, Effort, Work],
    "dataset": [Dataset, Pipelines, Effort, Work],
    "discriminator": [Text, Distill, Work],
    "batch": [Batch],
    "recipe": [Engines, Work],
    "demo": [],
    "ui": [Page],
    "examples": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_defaults_of_choices(command):
    """What is not given counts only where choices.py has something to say of it."""
    pages = COMMANDS[command]
    function = commands()[command]
    hints = get_type_hints(function)
    for name, option in inspect.signature(function).parameters.items():
        default = getattr(option.default, "value", option.default)
        known = default_of(pages, OTHER_NAMES.get(name, name)) is not MISSED
        given = default not in (None, False, option.empty) and name != "output"
        if (known and default is not option.empty) or given:
            hold(name, default, words_of(hints[name]), pages, set(), command)


def commands() -> dict:
    """Name → function of every command."""
    return {info.callback.__name__: info.callback for info in app.registered_commands}


def words_of(hint) -> list | None:
    """The words of a menu, also of one that may be left out."""
    menus = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Enum)]
    return [word.value for word in menus[0]] if menus else None


def test_every_command_is_looked_at():
    assert set(commands()) == set(COMMANDS)


# The host's schema classes, as far as declaring goes; prints what it sees.
DECLARED = """
import asyncio, json, sys
from types import ModuleType, SimpleNamespace

class Kind:
    Input = staticmethod(lambda id, **more: (id, more))
    Output = staticmethod(lambda id=None, **more: (id, more))
    TemplatePrefix = staticmethod(lambda *given, **more: None)

class Declaring:
    ComfyNode = type("ComfyNode", (), {})
    Schema, Custom = dict, staticmethod(lambda name: Kind)
    def __getattr__(self, name):
        return Kind

names = ("comfy", "comfy.samplers", "comfy_api", "comfy_api.latest")
comfy, samplers, _, latest = made = [ModuleType(name) for name in names]
sys.modules |= dict(zip(names, made))
comfy.samplers = samplers
samplers.KSampler = SimpleNamespace(SAMPLERS=["euler"], SCHEDULERS=["normal", "simple"])
latest.io, latest.ui, latest.ComfyExtension = Declaring(), None, object

from lora_graft import nodes
host = nodes.load_lora.host
host.lora_files = host.dataset_files = host.discriminator_files = lambda: []
found = {}
for node in asyncio.run(nodes.LoraGraftExtension().get_node_list()):
    schema = node.define_schema()
    found[schema["node_id"]] = {
        id: (more["default"], more.get("options")) for id, more in schema["inputs"] if "default" in more
    }
from lora_graft.nodes.host.denoiser import DTYPES
print(json.dumps({"nodes": found, "dtypes": list(DTYPES)}))
"""
NODES = {
    "LoadLoRA": ([], set()),
    "SubspaceSimilarity": ([Subspace], set()),
    "Transfer": ([Transfer, Subspace], {"match_strength", "match_size"}),
    "MatchStrength": ([Drawing, Dataset], {"prompts"}),
    "LegoMerge": ([Merge], {"k", "strengths"}),
    "MergeLoRAs": ([Merge], {"k", "strengths"}),
    "ResizeLoRA": ([Resize], set()),
    "ApplyLoRA": ([], {"strength_model", "strength_clip"}),
    "SaveLoRA": ([File], {"filename_prefix", "folder"}),
    "SyntheticPrompts": ([Prompts], {"seed_prompts"}),
    "SyntheticDataset": ([Dataset, Drawing, Effort], {"prompts", "strengths"}),
    "PictureDataset": ([Dataset, Drawing], {"folder", "captions"}),
    "TrainDiscriminator": ([File], {"filename_prefix", "folder"}),
    "LoadDiscriminator": ([], {"file"}),
    "SaveDataset": ([], {"filename_prefix"}),
    "LoadDataset": ([], {"file"}),
    "Distill": ([Distill, Effort], {"strengths", "checkpointing", "checkpoint_every", "pictures"}),
}


@pytest.fixture(scope="module")
def host() -> dict:
    """What a host without a body sees: ``nodes`` with their declared inputs, ``dtypes`` it can compute in."""
    done = subprocess.run([sys.executable, "-c", DECLARED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def declared(host) -> dict:
    """Node → input → [default, options]."""
    return {name.removeprefix("LoraGraft_"): inputs for name, inputs in host["nodes"].items()}


def test_the_host_computes_in_what_can_be_chosen(host):
    assert set(host["dtypes"]) == set(Distill.dtypes)


def test_every_node_is_looked_at(declared):
    assert set(declared) == set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_nodes_have_the_defaults_of_choices(declared, node):
    pages, own = NODES[node]
    for name, (default, words) in declared[node].items():
        hold(name, default, words, pages, own, node)


def test_k_is_the_rank_in_merges_and_the_size_of_a_subspace_elsewhere(declared):
    assert {declared[node]["k"][0] for node in ("LegoMerge", "MergeLoRAs")} == {Merge.fixed_rank}
    assert {declared[node]["k"][0] for node in ("Transfer", "SubspaceSimilarity")} == {Subspace.k}
    assert declared["Transfer"]["match_size"][0] == Drawing.width


def test_choices_cost_nothing():
    code = "import sys, typing; before = set(sys.modules); import lora_graft.choices; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {*loaded} - {"__future__"} == {"lora_graft", "lora_graft.choices", "lora_graft.version"}
