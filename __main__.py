"""The command line straight from a clone, whatever its folder is called: ``python custom_nodes/LoRA-Graft COMMAND``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def load() -> None:
    """Make this folder the package ``lora_graft``; inside it the imports are relative."""
    folder = Path(__file__).absolute().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).absolute() != folder]  # its modules are no others' names
    spec = spec_from_file_location("lora_graft", folder / "__init__.py", submodule_search_locations=[str(folder)])
    package = sys.modules["lora_graft"] = module_from_spec(spec)
    spec.loader.exec_module(package)


if not __package__:  # not started by -m
    load()
    __spec__ = None  # worker processes then begin with this file and know the package, too
if __name__ == "__main__":
    from lora_graft.cli import main

    main()
