"""``python -m lora_graft.cli``"""

from . import main

main()
