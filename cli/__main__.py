"""``python -m lora_graft.cli``"""

from . import main

if __name__ == "__main__":  # processes of a pool import this again
    main()
