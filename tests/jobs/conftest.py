"""The example family as files, written once per test run."""

from __future__ import annotations

import pytest
from lora_graft import adapters
from lora_graft.bases import open_base
from lora_graft.examples.family.materialize import materialize


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """base(letter) and adapter(name) of the example family."""
    files = materialize(tmp_path_factory.mktemp("family"), text_encoder=False)

    class Family:
        def path(self, name):
            return files[f"family_{name}"]

        def base(self, letter):
            return open_base(self.path(letter))

        def adapter(self, name):
            return adapters.read(self.path(name))

    return Family()
