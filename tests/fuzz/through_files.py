"""Adapters, checkpoints, folders, datasets, caches: what comes in as a file."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

import attacks
import containers
import corpus
import hostile
from entrances import entrance
from promise import Broken, Sandbox


@cache
def good(name: str) -> bytes:
    """A file with nothing wrong in it."""
    made = {"base a": corpus.checkpoint(0), "base b": corpus.checkpoint(1), "lora": corpus.fitting()}
    return made[name].to_bytes()


def _adapter(random: Random, fitting: float = 0.3) -> bytes:
    """A broken adapter of any format."""
    file = corpus.fitting() if random.random() < fitting else random.choice(list(corpus.adapters().values()))
    return containers.broken(random, file)


def _name(random: Random) -> str:
    """A file name that a file system takes."""
    if random.random() < 0.8:
        return "lora.safetensors"
    if random.random() < 0.3:
        return (
            random.choice((*attacks.MARKS, "\udcff\udc80", "\udce9t\udce9", "-", "~", "x" * 240)).replace("/", "_")
            + ".safetensors"
        )
    odd = hostile.plain_text(random).replace("/", "_").replace("\0", "_")[:60]
    return f"{odd}.safetensors"


@entrance("adapter: inspect")
def inspect(random: Random, box: Sandbox) -> str:
    lora = box.put(_name(random), _adapter(random, 0.1))
    return box.cli("inspect", *(["--json"] if random.random() < 0.3 else []), "--", lora)


@entrance("adapter: convert")
def convert(random: Random, box: Sandbox) -> str:
    data = _adapter(random, 0.2)
    lora, out = box.put("lora.safetensors", data), box.out / "x.safetensors"
    layout = random.choice(("same", "same", "kohya", "diffusers", "peft", "comfy"))
    more = ["--dtype", random.choice(("fp16", "bf16", "fp32"))] if random.random() < 0.3 else []
    outcome = box.cli("convert", lora, "--layout", layout, "-o", out, *more, writes=(out,))
    if outcome == "right" and layout == "same" and not more:
        _same_tensors(lora, out)
    return outcome


def _same_tensors(lora: Path, out: Path) -> None:
    """By another reader than ours, nothing was lost on the way."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        before = load_file(lora)
    except SafetensorError:  # the library is stricter about metadata that is no text
        return
    after = load_file(out)
    for key in before.keys() | after.keys():
        one, other = before.get(key), after.get(key)
        if one is None or other is None:
            if key.endswith(".alpha"):  # a scale that the metadata told is written beside its factors
                continue
            raise Broken("wrong", f"{key[-60:]!a} is in one of the two files alone")
        if one.dtype != other.dtype or one.shape != other.shape or containers.raw(one) != containers.raw(other):
            raise Broken("wrong", f"{key[-60:]!a} is not what it was")


@entrance("adapter: transfer")
def transfer(random: Random, box: Sandbox) -> str:
    lora = box.put(_name(random), _adapter(random, 0.8))
    a, b = box.put("a.safetensors", good("base a")), box.put("b.safetensors", good("base b"))
    out, more, writes = box.out / "x.safetensors", [], []
    if random.random() < 0.5:
        writes = [box.out / f"r.{random.choice(('md', 'json'))}"]
        more = ["--report", writes[0]]
    if random.random() < 0.04:
        writes.append(box.out / "p.png")
        more += ["--plot", writes[-1]]
    method = random.choice(("copy", "copy", "lora-x", "prolora", "rotate", "auto"))
    more += (
        ["--strength", random.choice(("1", "0", "-1e30", "1e38", "nan", "inf", "0.5"))] if random.random() < 0.2 else []
    )
    more += ["--rank", random.choice(("1", "4", "1000000000", "99999999999999999999"))] if random.random() < 0.2 else []
    more += ["--method", method, "--source", a, "--target", b, "-o", out, "--", lora]
    return box.cli("transfer", *more, writes=(out, *writes))


@entrance("adapters: merge")
def merge(random: Random, box: Sandbox) -> str:
    one = box.put(_name(random), _adapter(random, 0.7))
    two = box.put("two.safetensors", _adapter(random, 0.7) if random.random() < 0.3 else good("lora"))
    out, more, writes = box.out / "x.safetensors", [], []
    if random.random() < 0.5:
        writes = [box.out / f"r.{random.choice(('md', 'json'))}"]
        more = ["--report", writes[0]]
    methods = (
        "lego",
        "concat",
        "linear",
        "svd",
        "ties",
        "dare",
        "della",
        "magnitude",
        "knots",
        "core-ties",
        "tsv",
        "iso",
    )
    more += ["--method", random.choice(methods)]
    more += ["--rank", random.choice(("max", "sum", "auto", "4", "1000000000"))] if random.random() < 0.5 else []
    strength = random.choice(("", "", ":0.5", ":-1:0", ":1e30", ":0", f":{hostile.plain_text(random)}")).replace(
        "\0", ""
    )
    return box.cli("merge", *more, "-o", out, "--", f"{one}{strength}", two, writes=(out, *writes))


@entrance("adapter: resize")
def resize(random: Random, box: Sandbox) -> str:
    lora = box.put(_name(random), _adapter(random, 0.5))
    out, report = box.out / "x.safetensors", box.out / f"r.{random.choice(('md', 'json'))}"
    amount = random.choice(("0", "1e-9", "0.5", "0.9", "1", "1e9", "nan", "inf", "-1"))
    rule = random.choice(
        (
            ("--rank", "2"),
            ("--rank", "1000000000"),
            ("--ratio", amount),
            ("--cumulative", amount),
            ("--energy", amount),
            ("--frobenius", amount),
        )
    )
    return box.cli("resize", *rule, "-o", out, "--report", report, "--", lora, writes=(out, report))


@entrance("PEFT folder")
def peft(random: Random, box: Sandbox) -> str:
    file = corpus.adapters()["peft"]
    data = file.to_bytes() if random.random() < 0.7 else containers.broken(random, file)
    lora = box.put("adapter_model.safetensors", data)
    odd = (
        attacks.peft_config(random, corpus.PEFT) if random.random() < 0.4 else hostile.changed(random, corpus.PEFT, 1.0)
    )
    config = hostile.written(random, odd).encode("utf-8", "surrogatepass")
    box.put("adapter_config.json", hostile.bitten(random, config) if random.random() < 0.2 else config)
    out = box.out / "x.safetensors"
    if random.random() < 0.5:
        return box.cli("inspect", lora)
    return box.cli("convert", lora, "--layout", random.choice(("same", "comfy", "kohya")), "-o", out, writes=(out,))


@entrance("checkpoint")
def checkpoint(random: Random, box: Sandbox) -> str:
    kinds = (corpus.checkpoint, corpus.checkpoint, corpus.scaled, corpus.diffusers, corpus.flux)
    file = random.choice((*kinds, corpus.single_stream, corpus.two_towers))()
    base = box.put(_name(random), containers.broken(random, file))
    other = box.put("other.safetensors", good("base b"))
    if random.random() < 0.7:
        out = box.out / "r.json"
        pair = [base, other] if random.random() < 0.5 else [other, base]
        return box.cli("similarity", "--k", "2", "--json", out, "--", *pair, writes=(out,))
    lora, out = box.put("lora2.safetensors", good("lora")), box.out / "x.safetensors"
    pair = ["--source", base, "--target", other] if random.random() < 0.5 else ["--source", other, "--target", base]
    method = random.choice(("copy", "lora-x", "auto"))
    return box.cli("transfer", "--k", "2", "--method", method, *pair, "-o", out, "--", lora, writes=(out,))


@entrance("diffusers folder")
def folder(random: Random, box: Sandbox) -> str:
    """Shards and their index, components, files that are not there."""
    part = random.choice(("unet", "transformer", "", "text_encoder", "text_encoder_2"))
    file = corpus.diffusers()
    shards = [containers.File(dict(list(file.tensors.items())[half::2])) for half in (0, 1)]
    for number, shard in enumerate(shards, 1):
        data = containers.broken(random, shard) if random.random() < 0.4 else shard.to_bytes()
        if random.random() < 0.95:
            box.put(f"model/{part}/m-0000{number}-of-00002.safetensors", data)
    if random.random() < 0.8:
        index = hostile.written(random, hostile.changed(random, corpus.INDEX, 0.8)).encode("utf-8", "surrogatepass")
        index = hostile.bitten(random, index) if random.random() < 0.1 else index
        box.put(f"model/{part}/m.safetensors.index.json", index)
    other = box.put("other.safetensors", corpus.diffusers().to_bytes())
    out = box.out / "r.json"
    return box.cli("similarity", "--k", "2", "--json", out, box.inputs / "model", other, writes=(out,))


@entrance("dataset")
def dataset(random: Random, box: Sandbox) -> str:
    from lora_graft.jobs.distill import dataset as files

    path = box.put("d.safetensors", containers.broken(random, corpus.dataset()))

    def check(found) -> None:
        """What was taken for a dataset is one: everything that distilling reads of it fits together."""
        n = len(found.prompts)
        if not all(isinstance(line, str) for line in found.prompts) or not isinstance(found.info, dict):
            raise Broken("wrong", "prompts that are no texts")
        if found.taught.shape != found.plain.shape or found.taught.ndim < 3 or len(found.taught) != n:
            raise Broken("wrong", "latents that do not fit the prompts")
        if found.acts.shape != (n,) or found.kept.shape != (n,) or str(found.kept.dtype) != "torch.bool":
            raise Broken("wrong", "scores that do not fit the prompts")

    def load():
        found = files.load(path)
        found.kept_indices()
        found.digest  # noqa: B018
        with suppress(files.SettingsError):
            files.require_samples(found)
        return found

    return box.call(load, check)


@entrance("distilling's checkpoint")
def run_state(random: Random, box: Sandbox) -> str:
    from lora_graft.jobs.distill.checkpoint import FileKeeper

    keeper = FileKeeper(box.inputs, corpus.IDENTITY)
    box.put(keeper.path.name, containers.broken(random, corpus.run_state()))

    def check(state) -> None:
        if state is not None and not (isinstance(state.step, int) and all(isinstance(x, float) for x in state.losses)):
            raise Broken("wrong", "a state that no run was in")

    return box.call(keeper.load, check)


@entrance("cache of subspaces")
def cached(random: Random, box: Sandbox) -> str:
    from lora_graft.jobs.cache import SubspaceCache, subspace_key

    key = subspace_key("ab" * 32, 3)
    path = box.cache / f"{key}.safetensors"
    path.write_bytes(containers.broken(random, corpus.subspace(key)))
    found = SubspaceCache(box.cache)

    def check(entry) -> None:
        if entry is not None and not (entry.left.shape[1] == len(entry.values) == entry.right.shape[1]):
            raise Broken("wrong", "sizes disagree")

    return "right" if box.call(lambda: found.get(key), check) == "right" else "refused"
