"""What the campaign found, each as a small file or text of its own: a clear error or a right result since then."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import corpus
from containers import File
from lora_graft.adapters import from_state_dict
from lora_graft.bases.layout import canonical_parts
from lora_graft.batch.jobs import assignments
from lora_graft.batch.server import address
from lora_graft.errors import AdapterError, SettingsError
from lora_graft.jobs.text import in_ranges
from lora_graft.names.describe import natural
from lora_graft.names.guess import guess_architecture
from lora_graft.names.guess_adapter import guess_adapter_architecture
from lora_graft.plots.grid import ordered
from test_fuzz_bombs import DOWN, UP, Q, box, entry, header  # noqa: F401, a fixture
from through_models import TEXT_LORA, text_lora

LONG = "9" * 5000
DIGITS = ["²", "٣", LONG, "99999999999999999999", "999999999"]


@pytest.fixture
def bases(box):  # noqa: F811
    return [box.put(f"{seed}.safetensors", corpus.checkpoint(seed).to_bytes()) for seed in (0, 1)]


def transfer(box, lora, bases, *more):  # noqa: F811
    out = box.out / "x.safetensors"
    words = ("transfer", lora, "--source", bases[0], "--target", bases[1], "--k", "2", "-o", out, *more)
    reports = tuple(path for path in more if isinstance(path, Path))
    return box.cli(*words, writes=(out, *reports))


@pytest.mark.parametrize("shape", [[0, 2**63], [2**62, 0, 2**62], [10**30, 0], [0] * 65, [1] * 64 + [0]])
def test_shapes_beyond_what_a_tensor_can_have(shape, box):  # noqa: F811
    lora = box.put("lora.safetensors", header({"ZZ": entry(shape, 0, 0), UP: entry([1, 1], 0, 4)}, b"1234"))
    out = box.out / "x.safetensors"
    assert box.cli("convert", lora, "--layout", "same", "-o", out, writes=(out,)) == "refused"


@pytest.mark.parametrize("suffix", [".dora_scale", ".lora_magnitude_vector"])
def test_magnitudes_without_an_axis(suffix, box, bases):  # noqa: F811
    file = corpus.fitting()
    file.tensors[Q + suffix] = torch.tensor(2.0)
    assert transfer(box, box.put("lora.safetensors", file.to_bytes()), bases) == "refused"


def test_magnitudes_for_a_weight_that_is_no_matrix():
    module = from_state_dict(
        {UP: torch.ones(4, 1), DOWN: torch.ones(1, 1), f"{Q}.dora_scale": torch.ones(1, 1)}
    ).modules[Q]
    with pytest.raises(AdapterError, match="no matrix"):
        module.reanchored(torch.ones(4), torch.ones(4))


@pytest.mark.parametrize("half", ["up", "down"])
def test_numbered_layers_without_matrices(half, box):  # noqa: F811
    file = corpus.adapters()["numbered"]
    tensors = {**file.tensors, f"text_encoder:2:{half}": torch.ones(16)}
    assert box.cli("inspect", box.put("lora.safetensors", File(tensors, file.metadata).to_bytes())) == "refused"


@pytest.mark.parametrize("shape", [(), (24, 1), (0,)])
@pytest.mark.parametrize("key", [f"{Q}.diff_b", "alone.diff_b", f"{Q}.b_norm"])
def test_biases_that_are_no_list_of_the_outputs(shape, key, box):  # noqa: F811
    file = corpus.fitting()
    file.tensors[key] = torch.ones(shape)
    lora, out = box.put("lora.safetensors", file.to_bytes()), box.out / "x.safetensors"
    assert box.cli("resize", "--rank", "2", "-o", out, lora, writes=(out,)) == "refused"
    assert box.cli("merge", lora, lora, "-o", out, writes=(out,)) == "refused"


def test_two_weights_of_one_role_outside_the_blocks(box):  # noqa: F811
    good = corpus.diffusers()
    twin = File({**good.tensors, "conv_in": good.tensors["conv_in.weight"]})
    a, b = box.put("a.safetensors", twin.to_bytes()), box.put("b.safetensors", good.to_bytes())
    out = box.out / "r.json"
    assert box.cli("similarity", "--k", "2", "--json", out, a, b, writes=(out,)) == "right"
    names = {module["name"] for module in json.loads(out.read_text("utf-8"))["modules"]}
    assert any("attn1.to_q" in name for name in names)


def test_half_characters_in_a_setting():
    with pytest.raises(SettingsError, match="half a character"):
        assignments(["Draw.seed=\udcff"], None, None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="not an address"):
        address("http://127.0.0.1:8188/\udcff")


def test_a_file_name_that_is_no_text(box, bases):  # noqa: F811
    """Linux takes any bytes for a name; what is written of it is text all the same."""
    lora = box.put(os.fsdecode(b"\xe9t\xe9.safetensors"), corpus.fitting().to_bytes())
    assert transfer(box, lora, bases, "--report", box.out / "r.json") == "right"
    assert "\ufffdt\ufffd" in (box.out / "r.json").read_text("utf-8")


@pytest.mark.parametrize("digits", DIGITS)
def test_numbers_of_blocks_that_no_model_has(digits, box, bases):  # noqa: F811
    file = corpus.fitting()
    odd = Q.replace("mid_block", f"down_blocks_{digits}")
    file.tensors |= {f"{odd}.lora_up.weight": torch.ones(24, 2), f"{odd}.lora_down.weight": torch.ones(2, 24)}
    lora = box.put("lora.safetensors", file.to_bytes())
    assert box.cli("inspect", lora) == "right"
    report, picture = box.out / "r.json", box.out / "p.png"
    assert transfer(box, lora, bases, "--report", report, "--plot", picture) == "right"


@pytest.mark.parametrize("digits", DIGITS)
def test_checkpoints_with_such_blocks(digits, box):  # noqa: F811
    """The list of blocks is never counted up to a number that a name alone gives."""
    for good, name in ((corpus.checkpoint(), "input_blocks.1."), (corpus.diffusers(), "down_blocks.0.")):
        odd = name.rstrip("0123456789.") + f".{digits}."
        tensors = good.tensors | {k.replace(name, odd): t for k, t in good.tensors.items() if name in k}
        a = box.put("a.safetensors", File(tensors).to_bytes())
        b = box.put("b.safetensors", good.to_bytes())
        out = box.out / "r.json"
        assert box.cli("similarity", "--k", "2", "--json", out, a, b, writes=(out,)) == "right"
        out.unlink()


def test_names_are_sorted_and_drawn_together_whatever_digits_they_have():
    names = [f"layers.{digits}.x" for digits in (*DIGITS, "2", "10")]
    found = sorted(names, key=natural)
    assert found.index("layers.2.x") < found.index("layers.10.x") < found.index("layers.999999999.x")
    assert set(ordered(names)) == set(names)
    assert in_ranges([f"layers.{digits}" for digits in ("3", "4", *DIGITS[:3])])[-1] == "layers.3 to 4"
    assert guess_adapter_architecture({f"transformer.transformer_blocks.{LONG}.attn.to_q": (3072, 3072)})


def test_weights_of_other_axes_than_their_names_tell():
    fused = "layers.0.attention.qkv.weight"
    assert guess_architecture({fused: (3, 4, 5), "cap_embedder.1.weight": (4, 4)})
    assert guess_architecture({"input_blocks.1.1.attn2.to_k.weight": (), "middle_block.1.x": (1,)}) == "unknown"
    assert canonical_parts({"conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": ()}) == {}


def test_powers_of_two_in_eight_bits_beyond_half_precision(box):  # noqa: F811
    """float8_e8m0fnu has hardly any arithmetic in torch; the message about a value too large needs it."""
    good = corpus.fitting()
    good.tensors["ZZ"] = torch.full((4,), 254, dtype=torch.uint8)  # 2^127
    good.claims["ZZ"] = {"dtype": "F8_E8M0"}
    lora, out = box.put("lora.safetensors", good.to_bytes()), box.out / "x.safetensors"
    assert box.cli("convert", lora, "--layout", "same", "--dtype", "fp16", "-o", out, writes=(out,)) == "refused"


@pytest.mark.parametrize("number", ["1e999", "-Infinity", "NaN"])
def test_numbers_that_json_cannot_hold_do_not_get_into_a_new_configuration(number, box):  # noqa: F811
    box.put("lora/adapter_model.safetensors", text_lora().to_bytes())
    sound, odd = json.dumps(TEXT_LORA), json.dumps(TEXT_LORA | {"odd": "ZZ"}).replace('"ZZ"', number)
    lora, out = box.inputs / "lora", box.out / "new"
    box.put("lora/adapter_config.json", odd)
    assert box.cli("convert", lora, "--layout", "same", "-o", out) == "refused"
    box.put("lora/adapter_config.json", sound)
    written = (out / "adapter_model.safetensors", out / "adapter_config.json")
    assert box.cli("convert", lora, "--layout", "same", "-o", out, writes=written) == "right"


@pytest.mark.parametrize("field", ["output", "loras", "file"])
def test_a_recipe_with_a_path_longer_than_any(field, box):  # noqa: F811
    long = "x" * 5000
    box.put("a.safetensors", corpus.fitting().to_bytes())
    merge = {"name": "mix", "loras": [{"file": long if field == "file" else "a.safetensors"}]}
    data = {"output": long if field == "output" else "out", "merges": [merge]}
    if field == "loras":
        data["merges"][0]["loras"] = [long]
    recipe = box.put("recipe.yaml", json.dumps(data))
    run = box.cli("recipe", recipe, "--dry-run")
    assert run == "refused"


def test_two_names_of_one_tensor(box):  # noqa: F811
    """A control adapter for Flux with the bias of a module under both of the names that it can have."""
    good = corpus.adapters()["flux control"]
    twice = File(good.tensors | {"img_in.diff_b": torch.ones(24)})
    for file, outcome in ((good, "right"), (twice, "refused")):
        lora, out = box.put("lora.safetensors", file.to_bytes()), box.out / "x.safetensors"
        assert box.cli("convert", lora, "--layout", "same", "-o", out, writes=(out,)) == outcome
        out.unlink(missing_ok=True)
