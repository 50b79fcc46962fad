"""Small language models, really trained, and adapters for tasks that they cannot do: see the README beside this."""

from pathlib import Path

FOLDER = Path(__file__).parent
