"""Prompts for synthetic samples: from seed prompts, the adapter's own training tags, trigger words and a template.

Trans-LoRA (arXiv 2405.17258) lets a language model write more examples like five seeds, which :mod:`.writer` does where
there is one. A LoRA file tells more than that: kohya's trainers write down every caption tag with its count, which is
the task's distribution as observed, and a template makes prompts of it. What the language model cannot give comes from
the template.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

from ... import choices
from ...adapters import Adapter
from ...errors import SettingsError
from ...untrusted import parse_json, real_text
from ..progress import Progress, silent
from .guard import guard_prompts, says
from .template import Choice, parse
from .writer import EXAMPLES, Domain, Write, Written, weighted, write_prompts

WRITTEN = "written"  # among the sources of a prompt: the language model
LONGEST = 20  # tags in one prompt; a CLIP text encoder reads about as many
_ALWAYS = 0.9  # a tag in this share of the captions belongs to the trigger words
_PATIENCE = 1000  # drawings without a new prompt after which there is taken to be none
_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")


@dataclass(frozen=True)
class PromptSettings:
    """What prompts are made from.

    seeds: prompts like those the adapter is for; marks of a list ("1.", "-") at their start are dropped.
    adapter: its metadata tells tags and trigger words.
    template: see :mod:`.template`.
    count: number of prompts.
    seed: the same seed, the same prompts.
    guard_share: share of the prompts that are guard prompts, without the trigger words; see :mod:`.guard`. None: a
        quarter where the adapter tells trigger words, as no one else can say what does without them, else none.

    Raises:
        SettingsError: count below 1; a share that is no number from 0 to below 1.
    """

    seeds: Sequence[str] = ()
    adapter: Adapter | None = None
    template: str = choices.Prompts.template
    count: int = choices.Prompts.count
    seed: int = choices.Prompts.seed
    guard_share: float | None = choices.Prompts.guard_share

    def __post_init__(self) -> None:
        if self.guard_share is not None and not 0 <= self.guard_share < 1:
            raise SettingsError(f"the share of guard prompts must be at least 0 and below 1, got {self.guard_share}")
        if self.count < 1:
            raise SettingsError(f"the number of prompts must be at least 1, got {self.count}")


@dataclass(frozen=True)
class Prompts:
    """lines: the prompts; note: sentences that say where they came from."""

    lines: list[str]
    note: str

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def synthesize(settings: PromptSettings, write: Write | None = None, *, progress: Progress = silent) -> Prompts:
    """Prompts drawn from the sources, all different as long as these allow it; then they are repeated in turn.

    write: a language model as ``write(text, temperature, seed) -> str``, which is shown seed prompts and tags and
        writes as many of the prompts as it can; see :func:`.writer.write_prompts`. Where the template asks for the
        trigger words, they are put before each of its prompts that does not have them.

    Raises:
        SettingsError: the template cannot be read, or nothing that it asks for is there; `write` gave no text.
    """
    template = parse(settings.template)
    asked = set(template.names())
    sources = Sources(settings, with_trigger="trigger" in asked)
    if template.lacks(sources.present) and not asked & sources.present:
        raise SettingsError(
            f"there is nothing to make prompts from: the template asks for {_listed(asked)}, and there is none",
            hint="Write a few seed prompts, one a line, like those the LoRA is for; "
            "or connect a LoRA whose file tells training tags or trigger words.",
        )
    share = settings.guard_share
    if share is None:
        share = choices.Prompts.guard_share_known if sources.words else 0.0
    guards = dict(_guards(settings, sources, share))
    count = settings.count - len(guards)
    random, used = Random(settings.seed), {}
    written = None
    if write is not None:
        domain = Domain(sources.seeds or _examples(template, sources, settings.seed), sources.tags, sources.words)
        written = write_prompts(write, domain, count, settings.seed, progress=progress)
        trigger_random = Random(settings.seed)
        for line in written.lines:
            if with_trigger := "trigger" in asked & sources.present:
                line = ", ".join([*sources.trigger(trigger_random, line), line])
            used[tidy(line)] = {WRITTEN, "trigger"} if with_trigger else {WRITTEN}
    misses = 0
    while len(used) < count and misses < _PATIENCE:
        line = _draw(template, sources, random)
        if line and line not in used:
            used[line], misses = sources.taken, 0
        else:
            misses += 1
    if not used:
        raise SettingsError("the template makes empty prompts only", hint="Add words or placeholders to it.")
    distinct = list(used)
    lines = [distinct[i % len(distinct)] for i in range(count)]
    note = _note(lines, len(distinct), used, asked, sources, written)
    if share:
        note += _of_guards(guards, round(share * settings.count), sources)
        lines += guards
        Random(f"order {settings.seed}").shuffle(lines)  # a dataset takes them in turn, for each half of its samples
    return Prompts(lines, note)


def _guards(settings: PromptSettings, sources: Sources, share: float) -> list[tuple[str, str]]:
    wanted = min(round(share * settings.count), settings.count - 1)
    found = guard_prompts(sources.seeds, sources.counts, sources.words, wanted, settings.seed, sources.usual)
    return [(line, source) for text, source in found if (line := tidy(text))]


def _of_guards(guards: dict[str, str], wanted: int, sources: Sources) -> str:
    counts = Counter(guards.values())
    spoken = {"tags": "of training tags", "seeds": "of seed prompts", "everyday": "everyday ones"}
    origins = ", ".join(f"{counts[name]} {text}" for name, text in spoken.items() if counts[name])
    sentence = f" And {len(guards)} guard prompts without trigger words" + (f": {origins}." if guards else ".")
    if len(guards) < wanted:
        sentence += f" There are no {wanted}."
    if guards and not sources.words:
        sentence += " Trigger words are not known here, so that guard prompts of tags and seed prompts cannot be made."
    return sentence


def _draw(template: Choice, sources: Sources, random: Random) -> str:
    sources.taken = set()
    return tidy(template.draw(random, sources.present, lambda name, number: sources.fill(random, name, number)))


def _examples(template: Choice, sources: Sources, seed: int) -> list[str]:
    """What the template makes, for a language model to go on from where there are no seed prompts."""
    random = Random(seed)
    return list(dict.fromkeys(filter(None, (_draw(template, sources, random) for _ in range(4 * EXAMPLES)))))


class Sources:
    """What the placeholders may be filled with. `present`: those that are not empty; `taken`: those used since reset.

    with_trigger: whether the template names the trigger words; if so, tags that are among them are not drawn as tags.
    """

    def __init__(self, settings: PromptSettings, *, with_trigger: bool):
        adapter = settings.adapter
        self.seeds = list(dict.fromkeys(filter(None, (_MARK.sub("", line).strip() for line in settings.seeds))))
        counts = {tag: n for tag, n in (adapter.tags if adapter else {}).items() if n > 0}
        self.counts = counts
        self.known_tags, top = len(counts), max(counts.values(), default=0)
        captions = max(_images(adapter.metadata) if adapter else 0, top)
        # Adapter.triggers also lists tags as frequent as any; where every caption differs, that says nothing.
        listed = adapter.triggers if adapter else []
        self.always = [word for word in listed if counts.get(word, 0) >= _ALWAYS * max(captions, 2)]
        self.named = [word for word in listed if counts.get(word, 0) < _ALWAYS * top or word not in counts]
        self.words = [*self.named, *self.always]
        self.tags = {tag: n for tag, n in counts.items() if not (with_trigger and tag in self.words)}
        self.usual = sum(self.tags.values()) / captions if captions > 1 else 1.0
        there = {"seed": self.seeds, "trigger": self.words, "tag": self.tags, "tags": self.tags}
        self.present = {name for name, found in there.items() if found}
        self.taken: set[str] = set()

    def fill(self, random: Random, name: str, number: int | None) -> str:
        self.taken.add("tags" if name == "tag" else name)
        if name == "seed":
            return random.choice(self.seeds)
        if name == "trigger":
            return ", ".join(self.trigger(random))
        if name == "tags" and number is None:
            few, many = max(ceil(self.usual / 2), 1), max(int(self.usual * 1.5), 1)
            number = random.randint(min(few, LONGEST), min(many, LONGEST))
        return ", ".join(weighted(random, self.tags, number or 1))

    def trigger(self, random: Random, line: str = "") -> list[str]:
        """Trigger words that the line does not have. Those in nearly every caption belong together; of others that
        are named, each may be a concept apart.
        """
        one_there = any(says(line, word) for word in self.named)
        named = [random.choice(self.named)] if self.named and not one_there else []
        return named + [word for word in self.always if not says(line, word)]


def tidy(line: str) -> str:
    """Single spaces, no empty parts between commas and none twice (parts with brackets may belong together)."""
    parts: dict[str, str] = {}
    for i, part in enumerate(real_text(line).split(",")):
        words = " ".join(part.split())
        if words:
            parts.setdefault(f"{words} {i}" if re.search(r"[()\[\]]", words) else words.casefold(), words)
    return ", ".join(parts.values())


def _images(metadata: dict[str, str]) -> int:
    """Training images by kohya's ``ss_dataset_dirs``; 0 when it does not tell."""
    try:
        folders = parse_json(metadata.get("ss_dataset_dirs", "{}"))
        found = sum(int(folder["img_count"]) for folder in folders.values())
        return found if 0 <= found < 2**53 else 0
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
        return 0


def _note(
    lines: list[str],
    distinct: int,
    used: dict[str, set[str]],
    asked: set[str],
    sources: Sources,
    written: Written | None,
) -> str:
    counts = Counter(name for line in lines for name in used[line])
    from_what = {
        WRITTEN: f"{counts[WRITTEN]} written by the language model",
        "tags": f"{counts['tags']} with training tags (the LoRA's file knows {sources.known_tags})",
        "seed": f"{counts['seed']} from {len(sources.seeds)} seed prompts",
    }
    origins = [text for name, text in from_what.items() if counts[name]]
    if written and written.lines and (others := sum(used[line] <= {"trigger"} for line in lines)):
        origins.append(f"{others} from the template alone")
    sentences = [f"{len(lines)} prompts" + (f": {', '.join(origins)}." if origins else " from the template.")]
    if written:
        sentences.append(_of_model(written, len(lines)))
    if counts["trigger"]:
        sentences.append(f"Trigger words: {', '.join(sources.words)}.")
    elif sources.words:
        sentences.append(f"The template does not use the LoRA's trigger words ({', '.join(sources.words)}).")
    if missing := asked - sources.present:
        sentences.append(f"The template also asks for {_listed(missing)}, of which there is none.")
    if distinct < len(lines):
        sentences.append(
            f"The sources give only {distinct} different prompt{'s' if distinct > 1 else ''}, which are "
            "repeated; more seed prompts or alternatives in the template give more."
        )
    return " ".join(sentences)


def _of_model(written: Written, count: int) -> str:
    rounds = f"{written.rounds} round{'s' if written.rounds > 1 else ''}"
    rejected = ", ".join(f"{n} {reason}" for reason, n in written.rejected.most_common())
    rejected = f" Rejected: {rejected}." if rejected else ""
    if not written.lines:
        nothing = "" if rejected else ", no list at all"
        return f"The language model wrote nothing useful in {rounds}{nothing}; the template stood in.{rejected}"
    short = "" if len(written.lines) >= count else " and had no more to give; the template filled in"
    return f"The language model was asked in {rounds}{short}.{rejected}"


def _listed(names: set[str]) -> str:
    spoken = {"seed": "seed prompts", "tag": "training tags", "tags": "training tags", "trigger": "trigger words"}
    return ", ".join(sorted({spoken[name] for name in names}))
