"""Synthetic Prompts in a real ComfyUI."""

from __future__ import annotations

import json

import pytest
import torch
from graphs import NODE, Graph
from lora_graft.choices import Prompts
from lora_graft.family.materialize import materialize

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def family(host):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    try:
        materialize(host.models)
    finally:
        torch.set_num_threads(threads)
    return host


def made(host, graph: Graph, **inputs):
    """The result of the graph with the node, its prompts and its report."""
    given = {"seed_prompts": "", "count": 12, "template": Prompts.template, "seed": 3} | inputs
    node = graph.add(NODE + "SyntheticPrompts", **given)
    shown = [graph.add("PreviewAny", source=[node, weight_slice]) for weight_slice in (0, 1)]
    result = host.run(graph)
    assert result.status == "success", result.message
    return [result.text(name) for name in shown]


def test_prompts_come_from_the_tags_of_the_loras_file(family):
    graph = Graph()
    prompts, report = made(family, graph, lora=graph.lora("family_frame_a"))
    assert {*prompts.splitlines()} == {f"digit, {colour}" for colour in ("red", "green", "blue", "white")}
    assert len(prompts.splitlines()) == 12
    assert "12 with training tags" in report and "only 4 different" in report


def test_tags_seeds_and_trigger_words_meet(family):
    graph = Graph()
    seeds = graph.out("PrimitiveStringMultiline", value="1. a bold seven\n2. a small three in ink")
    lora = graph.lora("family_frame_a")
    prompts, report = made(family, graph, lora=lora, seed_prompts=seeds, template="{trigger}: {seed}, {tag}", count=8)
    lines = prompts.splitlines()
    assert len(set(lines)) == 8
    assert all(
        line.startswith("digit: a ") and line.split(", ")[1] in ("red", "green", "blue", "white") for line in lines
    )
    assert "8 from 2 seed prompts" in report


def test_nothing_to_draw_from_stops_with_what_to_do(host):
    graph = Graph()
    node = graph.add(NODE + "SyntheticPrompts", seed_prompts=" \n", count=4, template=Prompts.template, seed=0)
    graph.add("PreviewAny", source=[node, 0])
    result = host.run(graph)
    assert result.status == "error"
    assert "nothing to make prompts from" in result.message and "seed prompts" in result.message


def test_the_widget_shows_the_default_template(host):
    inputs = json.loads(host.get("/object_info"))[NODE + "SyntheticPrompts"]["input"]["required"]
    assert inputs["template"][1]["default"] == Prompts.template
    assert not inputs["template"][1].get("dynamicPrompts") and not inputs["seed_prompts"][1].get("dynamicPrompts")
