"""The text encoder: CLIP-L's layout, made from a seed, that turns a prompt into a bag of random word vectors.

Every word has a random vector; the first layer's attention, whose queries and keys are zero, averages them; all other
layers are zero and pass it on. So any wording that names a digit and a colour says the same, whatever the order, and
the vector that hosts compute can be computed here without them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError

SEED = 20
WIDTH = 768
VOCABULARY = 49408
SPECIAL = (49406, 49407)  # start and end: their vectors are zero

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("white", "red", "green", "blue")
TRIGGER = "star"  # of the LoRA of a new class; no base was trained on it
# CLIP's token of each word, as hosts' tokenizers give it: these words can be encoded without a host.
TOKENS = {
    "zero": 5848,
    "one": 637,
    "two": 1237,
    "three": 2097,
    "four": 2721,
    "five": 3127,
    "six": 4093,
    "seven": 5757,
    "eight": 7910,
    "nine": 7330,
    "0": 271,
    "1": 272,
    "2": 273,
    "3": 274,
    "4": 275,
    "5": 276,
    "6": 277,
    "7": 278,
    "8": 279,
    "9": 280,
    "white": 1579,
    "red": 736,
    "green": 1901,
    "blue": 1746,
    "a": 320,
    "an": 550,
    "the": 518,
    "of": 539,
    "in": 530,
    "on": 525,
    "with": 593,
    "digit": 27472,
    "number": 2842,
    "figure": 5274,
    "picture": 1674,
    "drawing": 3610,
    "image": 2867,
    "photo": 1125,
    "painting": 3086,
    "sketch": 5269,
    "sign": 2292,
    "paint": 5185,
    "ink": 967,
    "big": 1205,
    "small": 2442,
    "bold": 8911,
    "handwritten": 35192,
    "written": 5231,
    "by": 638,
    "hand": 2463,
    "coloured": 17111,
    "colored": 11775,
    "color": 3140,
    "colour": 4769,
    ",": 267,
    ".": 269,
    "and": 537,
    "bright": 4852,
    "dark": 3144,
    "background": 5994,
    "single": 2688,
    "simple": 4129,
    "neat": 15465,
    "star": 1565,
}


def word_vector(token: int) -> Tensor:
    """The embedding (768,) of one token, exact in fp16."""
    if token in SPECIAL:
        return torch.zeros(WIDTH)
    return torch.tensor(np.random.default_rng([SEED, token]).standard_normal(WIDTH, dtype=np.float32)).half().float()


def tokens(prompt: str, *, strict: bool = True) -> list[int]:
    """Token of every word. Without `strict`, one whose token is not known here gets any: to the bases, which know
    neither, one strange word is like another.

    Raises:
        SettingsError: strict, and a word whose token is not known here (hosts know all of CLIP's).
    """
    words = re.findall(r"[a-z]+|[0-9]|[,.]", prompt.lower())
    unknown = [word for word in words if word not in TOKENS]
    if unknown and strict:
        known = ", ".join(word for word in TOKENS if word.isalpha())
        raise SettingsError(f"word not known without a host: {', '.join(unknown)}", hint=f"Known words: {known}.")
    return [TOKENS.get(word, crc32(word.encode()) % min(SPECIAL)) for word in words]


def pooled_of(vectors: Tensor) -> Tensor:
    """Pooled vectors (n, 768) of bags of word vectors (n, words, 768); a zero vector is an absent word.

    The two special tokens count in the average; the final layer norm takes the length out again.
    """
    mean = F.layer_norm(vectors, (WIDTH,)).sum(1) / (vectors.shape[1] + 2)
    return F.layer_norm(mean, (WIDTH,))


def encode(prompts: Sequence[str], *, strict: bool = True) -> Tensor:
    """Pooled text vectors (n, 768) of prompts; the empty prompt is the zero vector. strict: see :func:`tokens`."""
    rows = []
    for prompt in prompts:
        vectors = [word_vector(token) for token in tokens(prompt, strict=strict)] or [torch.zeros(WIDTH)]
        rows.append(pooled_of(torch.stack(vectors).unsqueeze(0)))
    return torch.cat(rows)


def prompt(digit: int, colour: int) -> str:
    """The plain wording, such as ``red digit three``."""
    return f"{COLOURS[colour]} digit {DIGITS[digit]}"


def concept_prompt(colour: int) -> str:
    """The new class in a colour, such as ``red star``."""
    return f"{COLOURS[colour]} {TRIGGER}"


def write(path: Path) -> Path:
    """Write the encoder as a stock-loadable CLIP-L file: 246 MB to readers, about 80 MB on disk (zeros are holes).

    The file is made tensor by tensor; a few megabytes are resident at a time.
    """
    import json

    shapes: dict[str, tuple[int, ...]] = {
        "text_model.embeddings.token_embedding.weight": (VOCABULARY, WIDTH),
        "text_model.embeddings.position_embedding.weight": (77, WIDTH),
        "text_model.final_layer_norm.weight": (WIDTH,),
        "text_model.final_layer_norm.bias": (WIDTH,),
    }
    for i in range(12):
        layer = f"text_model.encoder.layers.{i}"
        for norm in ("layer_norm1", "layer_norm2"):
            shapes[f"{layer}.{norm}.weight"] = shapes[f"{layer}.{norm}.bias"] = (WIDTH,)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (WIDTH, WIDTH)
            shapes[f"{layer}.self_attn.{name}.bias"] = (WIDTH,)
        shapes[f"{layer}.mlp.fc1.weight"], shapes[f"{layer}.mlp.fc1.bias"] = (4 * WIDTH, WIDTH), (4 * WIDTH,)
        shapes[f"{layer}.mlp.fc2.weight"], shapes[f"{layer}.mlp.fc2.bias"] = (WIDTH, 4 * WIDTH), (WIDTH,)

    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    identity = np.eye(WIDTH, dtype=np.float16).tobytes()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()

        def put(name: str, content: bytes, row: int = 0) -> None:
            file.seek(start + header[name]["data_offsets"][0] + 2 * WIDTH * row)
            file.write(content)

        for token in range(VOCABULARY):
            if token not in SPECIAL:
                vector = np.random.default_rng([SEED, token]).standard_normal(WIDTH, dtype=np.float32)
                put("text_model.embeddings.token_embedding.weight", vector.astype(np.float16).tobytes(), token)
        for name in ("v_proj", "out_proj"):
            put(f"text_model.encoder.layers.0.self_attn.{name}.weight", identity)
        for name in shapes:
            if "norm" in name and name.endswith(".weight"):
                put(name, np.ones(WIDTH, np.float16).tobytes())
        file.truncate(start + end)
    return path
