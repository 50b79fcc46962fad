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
    prompts, report = made(family, graph, lora=graph.lora("family_frame_a"), guard_share=0.0)
    assert {*prompts.splitlines()} == {f"digit, {colour}" for colour in ("red", "green", "blue", "white")}
    assert len(prompts.splitlines()) == 12
    assert "12 with training tags" in report and "only 4 different" in report


def test_tags_seeds_and_trigger_words_meet(family):
    graph = Graph()
    seeds = graph.out("PrimitiveStringMultiline", value="1. a bold seven\n2. a small three in ink")
    lora = graph.lora("family_frame_a")
    given = {"lora": lora, "seed_prompts": seeds, "template": "{trigger}: {seed}, {tag}"}
    prompts, report = made(family, graph, **given, count=8, guard_share=0.0)
    lines = prompts.splitlines()
    assert len(set(lines)) == 8
    assert all(
        line.startswith("digit: a ") and line.split(", ")[1] in ("red", "green", "blue", "white") for line in lines
    )
    assert "8 from 2 seed prompts" in report


def test_a_quarter_are_guard_prompts_where_trigger_words_are_known(family):
    graph = Graph()
    prompts, report = made(family, graph, lora=graph.lora("family_frame_a"))
    lines = prompts.splitlines()
    assert len(lines) == 12 and sum("digit" not in line for line in lines) == 3
    assert "9 with training tags" in report and "3 guard prompts without trigger words" in report
    seeds_only, told = made(family, Graph(), seed_prompts="a red seven\na green one", count=8)
    assert {*seeds_only.splitlines()} == {"a red seven", "a green one"} and "guard" not in told


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


@pytest.mark.parametrize("kind", ["gemma", "qwen"])
def test_a_language_model_is_asked_and_the_template_fills_in(host, kind):
    """Random weights write noise; that it is asked as a conversation, read, cleaned and counted is what is tested."""
    graph = Graph()
    model = graph.out("Probe_LanguageModel", kind=kind)
    node = graph.add(
        NODE + "SyntheticPrompts",
        seed_prompts="a bold seven\na small three in ink",
        count=6,
        template="{seed}, {red|green|blue|white}",
        seed=3,
        clip=model,
    )
    shown = [graph.add("PreviewAny", source=[node, output]) for output in (0, 1)]
    asked = graph.add("Probe_Asked", clip=model, after=[node, 0])
    result = host.run(graph)
    assert result.status == "success", result.message
    prompts, report = (result.text(name) for name in shown)
    assert len(set(prompts.splitlines())) == 6
    assert "language model" in report and "round" in report and "seed prompts" in report
    said = result.outputs[asked]["text"]
    assert len(said) >= 3 and all("a bold seven" in text and "text-to-image" in text for text in said)
    if kind == "qwen":
        assert all(text.startswith("<|im_start|>user\nA numbered list") for text in said)
        assert all(text.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n") for text in said)
    assert max(most for _, _, most in result.progress(node)) >= 24  # the tokens of an answer


def test_a_cancel_ends_the_writing_within_an_answer(host):
    graph = Graph()
    model = graph.out("Probe_LanguageModel", kind="gemma", longest=2000)
    node = graph.add(NODE + "SyntheticPrompts", seed_prompts="a box", count=4, template="{seed}", seed=0, clip=model)
    graph.add("PreviewAny", source=[node, 0])

    asked = []

    def stop(event):
        if event.type == "progress" and str(event.data["node"]) == node and event.data["value"] > 3 and not asked:
            asked.append(event.data["value"])
            host.interrupt()

    result = host.run(graph, on_event=stop)
    assert result.status == "interrupted" and result.error["node_id"] == node
    assert asked and max(value for _, value, _ in result.progress(node)) < 2000


def test_a_clip_that_cannot_write_is_told_apart(host):
    graph = Graph()
    node = graph.add(
        NODE + "SyntheticPrompts", seed_prompts="a box", count=4, template="{seed}", seed=0, clip=graph.clip()
    )
    graph.add("PreviewAny", source=[node, 0])
    result = host.run(graph)
    assert result.status == "error"
    assert "cannot write" in result.message and "Qwen3 or Gemma" in result.message
