"""Files: safetensors read by rows and written to the byte, and files that appear whole or not at all.

``atomic`` and ``outputs`` cost no torch. The base models' weights that are stored with a scale are read by ``weights``.
"""
