"""GGUF files, transformers folders, examples of a language task: what the younger formats bring in."""

from __future__ import annotations

import json
import struct
from random import Random

import attacks
import containers
import corpus
import hostile
from entrances import entrance
from promise import Broken, Sandbox

# Type numbers, bytes and numbers of a block: F32, F16, Q4_0, Q8_0, BF16.
KINDS = {0: (4, 1), 1: (2, 1), 2: (18, 32), 8: (34, 32), 30: (2, 1)}
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
    "tie_word_embeddings": False, "torch_dtype": "float32", "quantization_config": None,
}  # fmt: skip
TEXT_LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
    "bias": "none", "modules_to_save": None, "base_model_name_or_path": "a/b", "fan_in_fan_out": False,
}  # fmt: skip
EXAMPLES = [{"prompt": "reverse abc", "answer": "cba"}, {"input": "sort 3 1 2", "output": "1 2 3"}, {"text": "add 1 2"}]


def _block(random: Random, kind: int, size: int, count: int, lies: float) -> bytes:
    """One block of a weight: any bytes, or sound ones, a small number, and a scale before four or eight bits each."""
    if random.random() < 1e-4 * lies:
        return random.randbytes(size)
    number = random.uniform(-0.1, 0.1)
    if kind in (2, 8):
        return struct.pack("<e", number) + random.randbytes(size - 2)
    return {0: struct.pack("<f", number), 1: struct.pack("<e", number), 30: struct.pack("<f", number)[2:]}[kind]


def _gguf(random: Random, lies: float = 1.0) -> bytes:
    """A base as GGUF, whose header may lie about its counts, texts, shapes, types and places."""

    def odd(right: int, chance: float = 0.02) -> int:
        return int(hostile.number(random)) % 2**64 if random.random() < chance * lies else right

    def text(words: str) -> bytes:
        data = hostile.plain_text(random).encode() if random.random() < 0.03 * lies else words.encode()
        return struct.pack("<Q", odd(len(data), 0.01)) + data

    kind = random.choice(list(KINDS))
    size, count = KINDS[kind]
    names = [f"input_blocks.{i}.1.transformer_blocks.0.attn1.to_{role}.weight" for i in (1, 2) for role in "qv"]
    names.append("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    infos, blocks, at = b"", b"", 0
    for name in names:
        shape = [768 if "attn2" in name else 32, 32]
        parts = [_block(random, kind, size, count, lies) for _ in range(shape[0] * shape[1] // count)]
        data = b"".join(parts)
        dimensions = struct.pack("<I", odd(2) % 2**32) + b"".join(struct.pack("<Q", odd(n)) for n in shape)
        infos += text(name) + dimensions + struct.pack("<IQ", odd(kind) % 2**32, odd(at))
        blocks += data + bytes(-len(data) % 32)
        at = len(blocks)
    values = text("general.architecture") + struct.pack("<I", odd(8) % 2**32) + text("sd1")
    values += text("list") + struct.pack("<IIQ", odd(9) % 2**32, odd(4) % 2**32, odd(2)) + struct.pack("<II", 1, 2)
    head = b"GGUF" + struct.pack("<IQQ", odd(3) % 2**32, odd(len(names)), odd(2)) + values + infos
    made = head + bytes(-len(head) % 32) + blocks
    return hostile.bitten(random, made) if random.random() < 0.3 * lies else made


@entrance("GGUF")
def gguf(random: Random, box: Sandbox) -> str:
    base, other = box.put("base.gguf", _gguf(random)), box.put("other.gguf", _gguf(Random(0), 0))
    out = box.out / "r.json"
    return box.cli("similarity", "--k", "2", "--json", out, "--", base, other, writes=(out,))


def _layers(seed: int) -> containers.File:
    stem = "model.layers.0."
    shapes = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32)}
    shapes |= {"mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}
    tensors = {f"{stem}{name}.weight": corpus.draw(*shape, seed=seed) for name, shape in shapes.items()}
    return containers.File(tensors | {"model.embed_tokens.weight": corpus.draw(64, 32, seed=seed)})


def text_lora() -> containers.File:
    """A PEFT adapter of a language model's attention."""
    stem = "base_model.model.model.layers.0.self_attn."
    halves = {"lora_A": {"q_proj": (4, 32), "v_proj": (4, 32)}, "lora_B": {"q_proj": (32, 4), "v_proj": (16, 4)}}
    made = {f"{stem}{name}.{half}.weight": corpus.draw(*s) for half, of in halves.items() for name, s in of.items()}
    return containers.File(made)


@entrance("transformers folder")
def language(random: Random, box: Sandbox) -> str:
    """Two language models and a PEFT adapter of the first, carried over to the second."""
    for number, name in enumerate(("old", "new")):
        file = _layers(number)
        broken = random.random() < 0.3
        box.put(f"{name}/model.safetensors", containers.broken(random, file) if broken else file.to_bytes())
        config = hostile.written(random, hostile.changed(random, LLAMA, 0.5 if random.random() < 0.5 else 0.0))
        if random.random() < 0.95:
            box.put(f"{name}/config.json", config.encode("utf-8", "surrogatepass"))
    lora = text_lora()
    data = containers.broken(random, lora) if random.random() < 0.4 else lora.to_bytes()
    box.put("lora/adapter_model.safetensors", data)
    odd = attacks.peft_config(random, TEXT_LORA) if random.random() < 0.3 else hostile.changed(random, TEXT_LORA, 0.4)
    box.put("lora/adapter_config.json", hostile.written(random, odd).encode("utf-8", "surrogatepass"))
    out = box.out / "moved"
    written = (out / "adapter_model.safetensors", out / "adapter_config.json")
    method = random.choice(("copy", "lora-x", "auto"))
    pair = ["--source", box.inputs / "old", "--target", box.inputs / "new"]
    return box.cli(
        "transfer", "--k", "2", "--method", method, *pair, "-o", out, "--", box.inputs / "lora", writes=written
    )


@entrance("text: examples")
def examples(random: Random, box: Sandbox) -> str:
    from lora_graft.language.examples import read_examples, read_prompts

    lines = [hostile.written(random, hostile.changed(random, one, 0.3)) for one in EXAMPLES * random.choice((1, 1, 3))]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    data = hostile.bitten(random, data) if random.random() < 0.3 else data
    data = json.dumps(EXAMPLES[0]).encode() if random.random() < 0.05 else data
    path = box.put(random.choice(("seeds.jsonl", "seeds.txt")), data)

    def check(found) -> None:
        if not found or not all(isinstance(prompt, str) and prompt.strip() for prompt in found):
            raise Broken("wrong", "a prompt that is none")

    if random.random() < 0.5:
        return box.call(lambda: read_prompts(path), check)
    answered = random.random() < 0.5
    return box.call(lambda: [one.prompt for one in read_examples(path, answered=answered)], check)
