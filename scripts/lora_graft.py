"""The door of Automatic1111, Forge and Forge Neo, which run this file by its path.

The clone in ``extensions/`` becomes the package ``lora_graft`` as ``__main__.py`` makes it, whatever its folder is
called; one that is loaded already, as after *Reload UI*, is used again.
"""

import runpy
import sys
from pathlib import Path

if "lora_graft" not in sys.modules:
    runpy.run_path(str(Path(__file__).absolute().parent.parent / "__main__.py"), run_name="lora_graft_door")

from lora_graft.webui.extension import register

register()
