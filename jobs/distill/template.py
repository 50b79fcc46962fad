r"""Prompt templates: text with alternatives and placeholders.

    {red|green|blue} box      one of the alternatives, each as likely as the others
    {3::red|green} box        a number and two colons before an alternative: three times as likely as one without
    a box{|, on a table}      an empty alternative: the words are there or not
    {a {red|green} box|a bag} alternatives may hold alternatives and placeholders
    {trigger}                 the adapter's trigger words
    {tag}                     one training tag
    {tags}, {tags:3}          several different training tags, or exactly so many
    {seed}                    one of the seed prompts, taken as it stands
    \{ \} \| \: \\            the character itself

Every line that is not empty is a template of its own; one is drawn for each prompt, and a line may begin with a weight
as an alternative may. A line or alternative that asks for something there is none of is passed over, unless that
leaves nothing to choose; then the placeholder is empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from random import Random

from ...errors import SettingsError

_BARE = ("trigger", "tag", "tags")
_PLACEHOLDER = re.compile(r"(trigger|seed|tag|tags)|(tags):([1-9]\d?)")
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")
_ESCAPES = "{}|:\\"
HEAVIEST = 1e9
DEEPEST = 50  # brackets within brackets

# A placeholder's words: (name, number asked for or None) -> text.
Fill = Callable[[str, "int | None"], str]


@dataclass(frozen=True)
class Text:
    words: str

    def names(self) -> Iterator[str]:
        return iter(())

    def lacks(self, present: Collection[str]) -> bool:
        return False

    def draw(self, random: Random, present: Collection[str], fill: Fill) -> str:
        return self.words


@dataclass(frozen=True)
class Placeholder:
    name: str
    number: int | None = None

    def names(self) -> Iterator[str]:
        yield self.name

    def lacks(self, present: Collection[str]) -> bool:
        return self.name not in present

    def draw(self, random: Random, present: Collection[str], fill: Fill) -> str:
        return fill(self.name, self.number) if self.name in present else ""


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Node, ...]

    def names(self) -> Iterator[str]:
        return (name for part in self.parts for name in part.names())

    def lacks(self, present: Collection[str]) -> bool:
        return any(part.lacks(present) for part in self.parts)

    def draw(self, random: Random, present: Collection[str], fill: Fill) -> str:
        return "".join(part.draw(random, present, fill) for part in self.parts)


@dataclass(frozen=True)
class Choice:
    options: tuple[Sequence, ...]
    weights: tuple[float, ...]

    def names(self) -> Iterator[str]:
        return (name for option in self.options for name in option.names())

    def lacks(self, present: Collection[str]) -> bool:
        return all(option.lacks(present) for option in self.options)

    def draw(self, random: Random, present: Collection[str], fill: Fill) -> str:
        able = [i for i, option in enumerate(self.options) if not option.lacks(present)] or range(len(self.options))
        (chosen,) = random.choices(able, [self.weights[i] for i in able])
        return self.options[chosen].draw(random, present, fill)


Node = Text | Placeholder | Sequence | Choice


def parse(template: str) -> Choice:
    """The template as a choice between its lines.

    Raises:
        SettingsError: a bracket that is not closed or was not opened, an unknown placeholder, a weight of 0, no line.
    """
    lines = [line.strip() for line in template.splitlines()]
    choice = _choice([_Reader(line).line() for line in lines if line])
    if not choice.options:
        raise SettingsError("the template is empty", hint="Write at least one line, for example: {trigger}, {tags}")
    return choice


class _Reader:
    """Reads one line of a template from left to right."""

    def __init__(self, line: str):
        self.line_text, self.at, self.depth = line, 0, 0

    def line(self) -> tuple[float, Sequence]:
        read = self._option(inside=False)
        if self.at < len(self.line_text):
            self._fail("closes a bracket that was not opened")
        return read

    def _option(self, inside: bool) -> tuple[float, Sequence]:
        """Weight and parts up to the end of the alternative, whose `|` or `}` stays unread."""
        weight = 1.0
        if found := _WEIGHT.match(self.line_text, self.at):
            weight, self.at = float(found[1]), found.end()
            if weight == 0:
                self._fail("has an alternative of weight 0")
            if weight > HEAVIEST:
                self._fail(f"has an alternative of a weight beyond {HEAVIEST:g}")
        parts: list[Node] = []
        words = ""
        while self.at < len(self.line_text):
            char = self.line_text[self.at]
            if char == "}" or (char == "|" and inside):
                break
            self.at += 1
            if char == "\\" and self.line_text[self.at : self.at + 1] in tuple(_ESCAPES):
                words += self.line_text[self.at]
                self.at += 1
            elif char == "{":
                parts += [Text(words), self._group()]
                words = ""
            else:
                words += char
        return weight, Sequence((*parts, Text(words)))

    def _group(self) -> Node:
        """What a bracket holds, behind the opened `{`."""
        start, options = self.at, []
        self.depth += 1
        if self.depth > DEEPEST:
            self._fail(f"has brackets nested deeper than {DEEPEST} levels")
        while True:
            options.append(self._option(inside=True))
            if self.at == len(self.line_text):
                self._fail("does not close a bracket")
            self.at += 1
            if self.line_text[self.at - 1] == "}":
                break
        self.depth -= 1
        if len(options) > 1:
            if bare := next((name for _, option in options for name in _BARE if option.parts == (Text(name),)), None):
                self._fail(f"has the bare word {bare} as an alternative; the placeholder is {{{bare}}}")
            return _choice(options)
        held = self.line_text[start : self.at - 1]
        if found := _PLACEHOLDER.fullmatch(held.strip()):
            return Placeholder(found[1] or found[2], int(found[3]) if found[3] else None)
        self._fail(f"has {{{held}}}, which is neither a placeholder nor a choice")

    def _fail(self, what: str):
        raise SettingsError(
            f"the template's line {self.line_text!r} {what}",
            hint="Placeholders are {trigger}, {tag}, {tags}, {tags:3} and {seed}; alternatives are "
            "{red|green}; a bracket as such is \\{ or \\}.",
        )


def _choice(read: list[tuple[float, Sequence]]) -> Choice:
    return Choice(tuple(option for _, option in read), tuple(weight for weight, _ in read))
