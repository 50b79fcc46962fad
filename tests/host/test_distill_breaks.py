"""Distillation that is cancelled, breaks or gets nonsense: what is kept, what is said, and that the bases stay."""

from __future__ import annotations

import json
import re

import pytest
from distill_graph import DistillGraph, family, ok, parsed  # noqa: F401

pytestmark = pytest.mark.host
CLEAN = {"hooks": 0, "overrides": 0, "requires_grad": 0, "grads": 0, "in_training": 0}


@pytest.fixture(scope="module")
def before(family):  # noqa: F811
    """Hashes of the models before anything has touched them."""
    graph = DistillGraph()
    models = graph.models("family_a", "family_b")
    nodes = graph.state_of(models)
    result = ok(family.run(graph))
    return [parsed(result, node) for node in nodes]


def untouched(family, before):  # noqa: F811
    """The models are the same objects as before (the host keeps loaders' results), and the same bytes."""
    graph = DistillGraph()
    nodes = graph.state_of(graph.models("family_a", "family_b"))
    result = ok(family.run(graph))
    assert [parsed(result, node) for node in nodes] == before
    assert before[1] == before[3] == CLEAN and before[0]["patched"] == []


def run_until(family, graph, node, reached):  # noqa: F811
    """Run and cancel when a progress message of the node satisfies `reached(value, of)`."""
    asked = []

    def on_event(event):
        ours = event.type == "progress" and str(event.data.get("node")) == node
        if ours and not asked and reached(event.data["value"], event.data["max"]):
            asked.append(True)
            family.interrupt()

    result = family.run(graph, seconds=300, on_event=on_event)
    assert asked and result.status == "interrupted" and result.error["node_id"] == node, result.message
    return result


def learning(steps=30, seed=0, **more):
    """Base A's frame onto base B. Each test has its own seed, so that the host does not remember another's run."""
    graph = DistillGraph()
    models, lora = graph.models("family_a", "family_b"), graph.lora("family_frame_a")
    data = graph.dataset(models, lora, seed=seed)
    node = graph.distill([data, 0], models, lora, steps=steps, seed=seed, lessons=64, batch=16, **more)
    return graph, models, data, node


def test_bases_are_not_changed_and_nothing_stays_behind(family, before):  # noqa: F811
    graph, _, _, node = learning(2, seed=1, checkpointing="on", match_effect=True, dtype="bf16", pictures=1)
    ok(family.run(graph, seconds=300))
    untouched(family, before)


def test_cancel_while_drawing(family, before):  # noqa: F811
    graph = DistillGraph()
    models, lora = graph.models("family_a", "family_b"), graph.lora("family_frame_a")
    data = graph.dataset(models, lora, count=2000, seed=2, batch=4)
    run_until(family, graph, data, lambda value, of: value >= 4)
    untouched(family, before)


def test_cancel_while_the_lessons_are_made(family, before):  # noqa: F811
    graph, _, _, node = learning(1000, seed=3)
    graph[node]["inputs"] |= {"lessons": 20000, "batch": 16}
    run_until(family, graph, node, lambda value, of: value >= 16)
    assert not list((family.base / "output" / "loras").glob("distilled_until*"))
    untouched(family, before)


def test_cancel_while_learning_keeps_the_best_and_goes_on_from_there(family, before):  # noqa: F811
    loras, kept = family.base / "output" / "loras", family.base / "output" / "lora_graft_checkpoints"
    graph, models, _, node = learning(30, seed=4)
    run_until(family, graph, node, lambda value, of: of == 30 and value >= 3)
    [salvaged] = loras.glob("distilled_until_step_*.safetensors")
    assert len(list(kept.glob("*.safetensors"))) == 1
    untouched(family, before)

    core = graph.out("LoraLoaderModelOnly", model=models["target"], lora_name=salvaged.name, strength_model=1.0)
    halfway = graph.compare(models["target"], core)
    again, saved = graph.value([node, 4]), graph.save([node, 0], "breaks/resumed")
    graph["whole"] = {**graph[node], "inputs": {**graph[node]["inputs"], "checkpoint_every": 7, "strengths": "1.0"}}
    same = graph.compare([node, 1], ["whole", 1])
    result = ok(family.run(graph, seconds=300))
    assert parsed(result, halfway)["largest_change"] > 0
    # Both nodes are one run to a checkpoint; whichever the host takes first goes on from it, the other is unbroken.
    resumed = [m for m in (re.search(r"went on from its step (\d+)", result.text(n)) for n in (again, "whole")) if m]
    assert len(resumed) == 1 and 3 <= int(resumed[0][1]) < 30
    assert parsed(result, same)["worst"] == 0 and parsed(result, same)["largest_change"] > 1e-3
    assert not list(kept.glob("*.safetensors")), "a finished run leaves no checkpoint"
    assert result.text(saved)
    salvaged.unlink()
    untouched(family, before)


def test_progress_tells_of_both_phases(family):  # noqa: F811
    graph, _, _, node = learning(12, seed=10)
    steps = ok(family.run(graph, seconds=300)).progress(node)
    for of, least in ((3 * (64 + 32), 4), (12, 5)):
        values = [value for _, value, most in steps if most == of]
        assert values == sorted(values) and len(set(values)) >= least, (of, steps)
    assert max(step[1] for step in steps if step[2] == 12) == 12
    assert steps[-1][2] == 8  # then the guard prompts


def test_checkpointing_changes_nothing(family):  # noqa: F811
    graph, models, data, on = learning(3, seed=5, checkpointing="on")
    graph["off"] = {**graph[on], "inputs": {**graph[on]["inputs"], "checkpointing": "off"}}
    same = graph.compare([on, 1], ["off", 1])
    seen = parsed(ok(family.run(graph, seconds=300)), same)
    assert seen["worst"] < 1e-3 and seen["largest_change"] > 1e-4


@pytest.mark.parametrize(("where", "calls"), [("source", 1), ("target", 1), ("target", 8)])
def test_a_model_that_breaks(family, before, where, calls):  # noqa: F811
    """While the noisy latents are made, or while it learns: the message is the model's own."""
    graph, models, _, node = learning(6, seed=6)
    broken = graph.out("Probe_Spoilt", model=models[where], calls=calls, how="raise")
    graph[node]["inputs"][where] = broken
    result = family.run(graph, seconds=300)
    assert result.status == "error" and "spoilt on purpose" in result.message and result.error["node_id"] == node
    untouched(family, before)


def test_nan(family, before):  # noqa: F811
    """Of the teacher: an error. Of the student while it learns: the best before it."""
    graph, models, _, node = learning(6, seed=7)
    graph[node]["inputs"]["source"] = graph.out("Probe_Spoilt", model=models["source"], calls=1, how="nan")
    result = family.run(graph, seconds=300)
    assert result.status == "error" and "answers NaN or Inf" in result.message and "bf16" in result.message
    graph, models, _, node = learning(6, seed=7)
    # 96 noisy latents in 6 passes, 2 for the first check, a step, 2 for its check, a step, 2 for its check
    graph[node]["inputs"]["target"] = graph.out("Probe_Spoilt", model=models["target"], calls=14, how="nan")
    value = graph.value([node, 0])
    result = ok(family.run(graph, seconds=300))
    assert "became nan" in result.text(node) and "in step 3" in result.text(node)
    assert json.loads(result.text(value))["keys"]
    untouched(family, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"prompts": "\n  \n"}}, ["no prompts", "Synthetic Prompts"]),
        ({"data": {"least_action": 9.0}}, ["All 8 samples were rejected", "median", "Lower the thresholds"]),
        ({"node": {"loras.lora_0": None}}, ["No LoRA is connected"]),
        ({"node": {"strengths": "1, 2"}}, ["1 LoRAs and 2 strengths"]),
        ({"node": {"kind": "dora", "match_effect": True}}, ["DoRA cannot be scaled"]),
        ({"data": {"target": None}, "node": {"match_effect": True}}, ["the dataset has none"]),
    ],
    ids=["no prompts", "all rejected", "no LoRA", "strengths", "DoRA matched", "nothing to match"],
)
def test_bad_input(family, change, message):  # noqa: F811
    graph, _, data, node = learning(1, seed=8)
    for name, inputs in (("data", data), ("node", node)):
        for key, value in change.get(name, {}).items():
            graph[inputs]["inputs"][key] = value
            if value is None:
                del graph[inputs]["inputs"][key]
    result = family.run(graph, seconds=300)
    assert result.status == "error" and all(words in result.message for words in message), result.message


def test_a_start_of_another_architecture(family):  # noqa: F811
    graph, _, _, node = learning(1, seed=9)
    graph[node]["inputs"]["start_from"] = graph.lora("flux")
    result = family.run(graph, seconds=300)
    assert result.status == "error" and "changes none of the weights" in result.message
    graph[node]["inputs"]["start_from"] = graph.lora("family_frame_b")
    report = ok(family.run(graph, seconds=300)).text(node)
    assert "Started from family_frame_b.safetensors" in report
