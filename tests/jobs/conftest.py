"""The example family as files and as teachers and students, made once per test run."""

from __future__ import annotations

import pytest
import torch
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.family.denoiser import FamilyDenoiser
from lora_graft.jobs.distill.denoiser import Drawing, Teacher
from lora_graft.jobs.distill.generate import Generation, generate

PROMPTS = ["red digit two", "a green three", "white digit zero", "number four in blue ink"]


@pytest.fixture(scope="session")
def family(family_files):
    """base(letter) and adapter(name) of the example family."""

    class Family:
        def path(self, name):
            return family_files[f"family_{name}"]

        def base(self, letter):
            return open_base(self.path(letter))

        def adapter(self, name):
            return adapters.read(self.path(name))

    return Family()


@pytest.fixture(scope="session")
def lab(family):
    """The family as teachers and students: models, teachers of LoRAs, and datasets drawn once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    yield Lab(family)
    torch.set_num_threads(threads)


class Lab:
    def __init__(self, family):
        self.family, self.files = family, {f"family_{letter}": family.path(letter) for letter in "abcs"}
        self._drawn = {}

    def model(self, letter, *loras, kind=FamilyDenoiser, strength=1.0):
        """A base, with LoRAs (names of the family's, or adapters) on it."""
        given = [self.family.adapter(lora) if isinstance(lora, str) else lora for lora in loras]
        return kind(letter, self.files, [(lora, strength) for lora in given])

    def teacher(self, *loras, letter="a", strength=1.0):
        return Teacher(self.model(letter), [self.model(letter, lora, strength=strength) for lora in loras])

    def dataset(self, target="s", lora="frame_a"):
        """16 pictures of base A with the LoRA, 16 without it, 16 of the target (a letter, or None)."""
        if (target, lora) not in self._drawn:
            drawing = Drawing(64, 64, steps=10, cfg=3.0)
            self._drawn[target, lora] = generate(
                self.teacher(lora),
                self.model(target) if target else None,
                PROMPTS,
                Generation(count=32 if target else 16, drawing=drawing),
            )
        return self._drawn[target, lora]
