"""Changes of a file that somebody made who knows what its readers assume; `containers` has those of blind chance."""

from __future__ import annotations

import json
import math

import hostile
import torch

# Digits that are no number, numbers that are no int, and ints of no block.
DIGITS = ("²", "٣", "९", "9" * 5000, "999999999", "99999999999999999999", "007", "1_0", "-1", "①", "4294967296")
# Marks that turn the writing, end lines, erase, ring or pretend to be nothing.
MARKS = (
    "\u202eZZ\u202c", "\u2066ZZ\u2069", "\u061cZZ", "ZZ\u2028ZZ", "ZZ\u2029ZZ", "\u200eZZ\u200f", "\x85ZZ", "\x07ZZ",
    "\x1b[2JZZ", "\x9b31mZZ", "ZZ\rZZ", "ZZ\x0bZZ\x0c", "<b>ZZ</b>", "[ZZ](http://ZZ)", "\n# ZZ\n", "| ZZ |", "`ZZ`",
)  # fmt: skip
_WIDTH = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U8": 1, "I8": 1, "BOOL": 1}  # fmt: skip
_MAGNITUDES = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_BIASES = (".diff_b", ".b_norm", ".lora_B.bias", ".bias")
_TYPES = (None, True, False, 0, -1, 0.5, 1e308, 10**400, "", "ZZ", "1e999", "4", [], [4], {}, {"a": 4}, float("nan"))
_JOBS = ("transfer", "merge", "resize", "convert", "distil", "ZZ")


def overlap(random, file, key):
    """Two tensors of one size in the same bytes, in each other's, or one inside the other."""
    other = random.choice(list(file.tensors))
    start, ends = 0, {}
    for name, tensor in file.tensors.items():
        ends[name] = [start, start + tensor.numel() * tensor.element_size()]
        start = ends[name][1]
    first, second = ends[key], ends[other]
    odd = random.choice(
        (second, [second[0], second[0] + first[1] - first[0]], [first[0] + 4, first[1] + 4], [0, start])
    )
    file.claims[key] = file.claims.get(key, {}) | {"data_offsets": odd}
    if random.random() < 0.3:
        file.claims[other] = file.claims.get(other, {}) | {"data_offsets": first}


def recast(random, file, key):
    """The same bytes as numbers of another kind, the shape made to fit: nothing in the header contradicts itself."""
    tensor = file.tensors[key]
    size, shape = tensor.numel() * tensor.element_size(), list(tensor.shape)
    dtype = random.choice([d for d, width in _WIDTH.items() if size % width == 0])
    count = size // _WIDTH[dtype]
    if shape and math.prod(shape[:-1]) and count % math.prod(shape[:-1]) == 0:
        shape[-1] = count // math.prod(shape[:-1])
    else:
        shape = [count]
    file.claims[key] = {"dtype": dtype, "shape": shape}


def axes(random, file, key):
    """Far more axes than a weight has, all of length one or with a nothing among them."""
    tensor, many = file.tensors[key], random.choice((1, 2, 3, 60, 63, 70, 1000))
    at = random.randrange(tensor.ndim + 1)
    shape = [*tensor.shape[:at], *[1] * many, *tensor.shape[at:]]
    if random.random() < 0.2:
        shape = [random.choice((0, 2**20, 2**31, 2**62)) for _ in range(many)] + [0]
        file.tensors[key] = tensor.new_zeros(0)
    file.claims[key] = {"shape": shape}


def _drawn(random, base: int):
    """A tensor of zero to five axes, with as many numbers as `base` or not, of any kind."""
    rank = random.randrange(6)
    shape = [1] * rank
    if rank:
        shape[random.randrange(rank)] = random.choice((base, base, 1, 0, 3))
        if random.random() < 0.3:
            shape[random.randrange(rank)] = random.choice((2, base, 0))
    tensor = torch.ones(shape) * random.choice((1.0, 2.0, 0.0, -1.0, 1e30))
    return (
        tensor.nan_to_num().clamp(-100, 100).to(random.choice((torch.float32, torch.float16, torch.int32, torch.bool)))
    )


def alphas(random, file, key):
    """alpha of every rank and kind."""
    file.tensors[key.partition(".")[0] + ".alpha"] = _drawn(random, 1)


def magnitudes(random, file, key):
    """DoRA's magnitudes of every rank, on whatever the module is."""
    for suffix in random.sample(_MAGNITUDES, random.choice((1, 1, 1, 2))):
        file.tensors[key.partition(".")[0] + suffix] = _drawn(random, random.choice((24, 20)))


def biases(random, file, key):
    """A change of the bias of every rank, beside the rest or alone."""
    stem = key.partition(".")[0] if random.random() < 0.8 else "ZZ"
    file.tensors[stem + random.choice(_BIASES)] = _drawn(random, 24)


def mixed(random, file, key):
    """Tensors of other formats for the same weight."""
    import corpus

    stem, other = key.partition(".")[0], random.choice(list(corpus.adapters().values()))
    theirs = list(other.tensors.items())
    for name, tensor in random.sample(theirs, random.randrange(1, min(len(theirs), 4) + 1)):
        file.tensors[stem + "." + name.partition(".")[2]] = tensor


def digits(random, file, key):
    """Numbers in names that are none, or longer than any."""
    spots = [i for i, letter in enumerate(key) if letter.isdigit()]
    if spots:
        at, odd = random.choice(spots), random.choice(DIGITS)
        every = random.random() < 0.3  # the whole block under that number
        stem = key[:at]
        file.tensors = {
            stem + odd + name[at + 1 :] if name == key or (every and name.startswith(stem)) else name: tensor
            for name, tensor in file.tensors.items()
        }


def long_name(random, file, key):
    """Names of a hundred thousand letters, dots or blocks."""
    piece = random.choice(
        ("a", "a.", "_", "blocks.1.", "_blocks_1_", "layers.", "lora_", "\u202e", ".weight", ".alpha")
    )
    odd = piece * (random.choice((300, 5000, 100_000)) // len(piece))
    at = random.choice((0, key.find(".") if "." in key else 0, len(key)))
    file.tensors = {key[:at] + odd + key[at:] if k == key else k: t for k, t in file.tensors.items()}


def marked(random, file, key):
    """Marks inside names that are otherwise good, and in every value of the metadata."""
    mark = random.choice(MARKS)
    at = random.randrange(len(key) + 1)
    file.tensors = {key[:at] + mark + key[at:] if k == key else k: t for k, t in file.tensors.items()}
    if isinstance(file.metadata, dict):
        file.metadata = {k: _with_mark(v, mark) for k, v in file.metadata.items() if isinstance(v, str)}
        file.metadata |= {"modelspec.title": mark, "ss_output_name": mark, "modelspec.trigger_phrase": mark}


def _with_mark(text: str, mark: str) -> str:
    try:
        data = json.loads(text)
        return json.dumps(_everywhere(data, mark)) if isinstance(data, (dict, list)) else mark + text
    except (ValueError, RecursionError):
        return mark + text


def _everywhere(data, mark: str):
    if isinstance(data, dict):
        return {mark + str(key): _everywhere(value, mark) for key, value in data.items()}
    if isinstance(data, list):
        return [_everywhere(value, mark) for value in data]
    return mark + data if isinstance(data, str) else data


def peft_config(random, data: dict) -> dict:
    """PEFT's configuration with one field, or all, of another type than it has."""
    fields = [*data, "alpha", "rank", "init_lora_weights", "use_dora", "modules_to_save", "layers_to_transform"]
    chosen = fields if random.random() < 0.2 else [random.choice(fields)]
    return data | {name: random.choice(_TYPES) for name in chosen}


def wrong_types(random, file, key):
    """The same inside the metadata."""
    import corpus

    config = peft_config(random, corpus.PEFT)
    name, prefix = random.choice((("lora_adapter_metadata", "unet."), ("lora_graft.peft_config", "")))
    if isinstance(file.metadata, dict):
        file.metadata = file.metadata | {name: json.dumps({prefix + k: v for k, v in config.items()})}


def provenance(random, file, key):
    """A past that no step had: any types, any length, any names."""
    step = {"job": random.choice(_JOBS), "method": random.choice(_TYPES), "strengths": random.choice(_TYPES)}
    many = random.choice((0, 1, 2, 1000))
    past = random.choice((
        [step | {random.choice(MARKS): hostile.value(random)}] * many, [hostile.value(random)] * many, step,
        [{"job": hostile.value(random)}], {"job": [step]}, [[step]], "[", [step | {"sources": hostile.value(random)}],
    ))  # fmt: skip
    if isinstance(file.metadata, dict):
        made = {"lora_graft.history": hostile.written(random, past).encode("utf-8", "replace").decode()}
        for name in random.sample(
            ("job", "method", "strengths", "source", "target", "kept_energy", "adapter_sha256"), 3
        ):
            odd = hostile.written(random, random.choice((*_TYPES, hostile.value(random))))
            made["lora_graft." + name] = odd.encode("utf-8", "replace").decode()
        file.metadata = file.metadata | made


ALL = (
    overlap, recast, axes, alphas, magnitudes, magnitudes, biases, mixed, mixed, digits, digits, long_name, marked,
    wrong_types, provenance,
)  # fmt: skip
