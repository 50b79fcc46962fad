"""Texts, numbers, JSON and bytes as a stranger with bad intentions would write them. All draws come from one Random."""

from __future__ import annotations

import json
from random import Random

# Every text that would be harmful if it were rendered or obeyed holds this word; what is merely odd need not.
MARK = "ZZ"
TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../../../ZZ",
    "/ZZ",
    "C:\\ZZ",
    "a/../../ZZ",
    "ZZ\x00ZZ",
    "ZZ\nZZ",
    "ZZ\r\n\tZZ",
    "\x1b[31mZZ\x1b[0m",
    "\x1b]0;ZZ\x07",
    "\x1b]8;;http://ZZ\x1b\\ZZ\x1b]8;;\x1b\\",
    "\x9b2JZZ",
    "ZZ\x08\x08\x7f",
    "\u202eZZ\u2066ZZ\u2069",
    "\u200b\u200eZZ\ufeff",
    "\ud800ZZ",
    "<script>ZZ</script>",
    "<img src=x onerror=ZZ>",
    "![ZZ](http://ZZ/x.png)",
    "[ZZ](javascript:ZZ)",
    "<http://ZZ>",
    "`ZZ` <b>ZZ</b>",
    "``` ZZ <i>ZZ</i>",
    "\n\n# ZZ\n\n",
    "\n| ZZ | ZZ |\n|---|---|\n| ![ZZ](ZZ) | <img src=ZZ> |\n",
    "ZZ | ZZ",
    "\\ZZ\\",
    "\\| <u>ZZ</u> \\|",
    "[bold red]ZZ[/]",
    "[/ZZ]",
    "{ZZ} {0} %s %n $(ZZ) ${ZZ} `ZZ`",
    "-ZZ",
    "--force",
    "@ZZ",
    "|",
    "ZZ" * 5000,
    "é\u0301ZZ\U0001f600",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "0x10",
    "1_0",
    "٣",
    "9" * 400,
    "(a+)+$",
    "(.*.*)*ZZ",
    "(",
    "[",
    "None",
    "null",
    "true",
    "__metadata__",
    "__class__",
)
NUMBERS = (
    0, -1, 1, 2, 3, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 10**9, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30,
    10**400, -(2**63), 0.5, -0.0, 1e308, 1.5, -1e-320,
)  # fmt: skip
RAW = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", '"\\ud800"', '"\\u0000"', '"\\u001b[31mZZ"')


def text(random: Random) -> str:
    """A hostile text, now and then two or a cut of one."""
    found = random.choice(TEXTS)
    roll = random.random()
    if roll < 0.15:
        found += random.choice(TEXTS)
    elif roll < 0.3:
        found = found[: random.randrange(len(found) + 1)]
    elif roll < 0.4:
        found = "".join(chr(random.choice((random.randrange(128), random.randrange(0xD7FF)))) for _ in range(9))
    return found


def plain_text(random: Random) -> str:
    """The same without lone surrogates, for places that only hold real text."""
    return text(random).encode("utf-8", "replace").decode()


def number(random: Random) -> int | float:
    return random.choice(NUMBERS) if random.random() < 0.8 else random.randrange(-1000, 100000)


def value(random: Random, depth: int = 3):
    """Any JSON value."""
    kind = random.randrange(8 if depth else 5)
    if kind == 0:
        return text(random)
    if kind == 1:
        return number(random)
    if kind == 2:
        return random.choice((None, True, False))
    if kind in (3, 4):
        return random.choice(("", 0, 1, [], {}, "ZZ", float("nan"), float("inf")))
    if kind == 5:
        return {text(random): value(random, depth - 1) for _ in range(random.randrange(4))}
    return [value(random, depth - 1) for _ in range(random.randrange(4))]


def written(random: Random, data) -> str:
    """The data as JSON text, sometimes with something in it that only a stranger writes."""
    out = json.dumps(data, ensure_ascii=random.random() < 0.5)
    roll = random.random()
    if roll < 0.04:
        return out[: random.randrange(len(out) + 1)]
    if roll < 0.08:
        return deep(random, out)
    if roll < 0.16:
        spots = [i for i, letter in enumerate(out) if letter in "0123456789"]
        if spots:
            at = random.choice(spots)
            return out[:at] + random.choice(RAW) + out[at + 1 :]
    if roll < 0.2:
        return "\ufeff" + out
    return out


def deep(random: Random, inside: str = "1") -> str:
    """JSON nested as deep as no parser likes."""
    many = random.choice((50, 900, 1100, 20_000, 200_000))
    opened, closed = random.choice((("[", "]"), ('{"a":', "}")))
    return opened * many + inside + closed * (many if random.random() < 0.7 else 0)


def changed(random: Random, data, strength: float = 0.3, depth: int = 6):
    """JSON data with some of its parts replaced, dropped, renamed or repeated."""
    if random.random() < strength / 8:
        return value(random)
    if isinstance(data, dict) and depth:
        out = {}
        for key, entry in data.items():
            roll = random.random()
            if roll < strength / 8:
                continue
            out[text(random) if roll < strength / 4 else key] = changed(random, entry, strength, depth - 1)
        if random.random() < strength / 4:
            out[text(random)] = value(random)
        return out
    if isinstance(data, (list, tuple)) and depth:
        out = [changed(random, entry, strength, depth - 1) for entry in data if random.random() > strength / 8]
        return out * random.choice((0, 2)) if random.random() < strength / 10 else out
    if random.random() < strength / 3:
        return random.choice((text, number, value))(random)
    return data


def bitten(random: Random, data: bytes) -> bytes:
    """The bytes with a few of them changed, lost, doubled or made up."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = random.choice((0, 10, 27, 34, 44, 45, 48, 57, 91, 92, 93, 123, 125, 127, 128, 155, 255))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + random.choice((1, 2, 8, 64))]
        elif kind == 4:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 2, 8, 64))))
        elif kind == 5:
            data[at:at] = data[at : at + random.choice((1, 8, 64, 512))]
        else:  # the length of a safetensors header
            data[:8] = random.choice((0, 1, 7, 8, len(data), max(len(data) - 8, 0), 2**31, 2**63, 2**64 - 1)).to_bytes(
                8, "little"
            )
    return bytes(data)
