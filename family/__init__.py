"""Small, really trained models: an SD3-layout family that draws coloured digits, and the code to draw without a host.

Bases ``a``, ``b`` (a, fine-tuned to another look), ``c`` (a with one of three blocks taken out, then healed), ``s``
(a stranger: same data and autoencoder, other seed), ``w`` (a stranger of another width and depth) and ``v`` (a stranger
with an autoencoder of its own); LoRAs for a frame, a slant and stripes on each of them; LoRA-X adapters of the same
effects on ``a``. :func:`materialize.materialize` writes files that hosts load.
"""
