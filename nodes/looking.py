"""What looks at pictures for a discriminator: a CLIP vision model, a VAE's latents, or the pixels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host

if TYPE_CHECKING:
    from ..jobs.distill.discriminator import Discriminator, Encoder

DISCRIMINATOR = io.Custom("LORA_GRAFT_DISCRIMINATOR")
_SAMPLED = 256  # numbers of a fingerprint, at most


class Eye:
    """Pictures (n, height, width, 3) in [0, 1] → embeddings (n, d).

    kind: as an Encoder names it; the model for it is connected. height, width: pictures are brought to this size
    before, where the kind depends on it.
    """

    def __init__(self, kind: str, clip_vision=None, vae=None, *, height: int, width: int):
        self.kind, self.clip_vision, self.vae = kind, clip_vision, vae
        from ..kernels.distill.looks import small

        if kind == "pixels":
            height, width = small(height, width)
        self.height, self.width = (0, 0) if kind == "clip_vision" else (height, width)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(n, d) float32."""
        from ..kernels.distill.looks import cells, pixels, resized

        found = []
        with torch.no_grad():
            for image in images[..., :3]:
                host.check_cancelled()
                if self.kind == "clip_vision":
                    row = self.clip_vision.encode_image(image[None])["image_embeds"].flatten(1)
                else:
                    row = resized(image[None].movedim(-1, 1), self.height, self.width)
                    row = pixels(row) if self.kind == "pixels" else cells(self.vae.encode(row.movedim(1, -1)))
                found.append(row.float().cpu())
        return torch.cat(found)

    def encoder(self, size: int) -> Encoder:
        """What a discriminator remembers of this eye; size: numbers in an embedding."""
        from ..jobs.distill.discriminator import Encoder

        model = {"clip_vision": getattr(self.clip_vision, "model", None)}
        model["latents"] = getattr(self.vae, "first_stage_model", None)
        network = model.get(self.kind)
        mark = torch.empty(0) if network is None else fingerprint(network.state_dict())
        return Encoder(self.kind, size, self.height, self.width, mark)


def eye_for(found: Discriminator, clip_vision, vae) -> Eye:
    """The eye that a discriminator was trained with; checked with a black picture before any work.

    Raises:
        SettingsError: what it needs is not connected, or is another model.
    """
    from ..errors import SettingsError

    encoder = found.encoder
    needs = {"source_vae": vae} | ({"clip_vision": clip_vision} if encoder.kind == "clip_vision" else {})
    missing = [name for name, given in needs.items() if given is None]
    if missing:
        raise SettingsError(
            f"The discriminator needs something to look at the samples: {' and '.join(missing)}",
            hint=f"Connect {' and '.join(missing)}"
            + (": the vision model that it was trained with." if "clip_vision" in missing else "."),
        )
    eye = Eye(encoder.kind, clip_vision, vae, height=encoder.height, width=encoder.width)
    black = torch.zeros(1, encoder.height or 64, encoder.width or 64, 3)
    encoder.require(eye.encoder(eye.embed(black).shape[1]))
    return eye


def fingerprint(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A sample (k,) of a model's weights, by which the same model is known again in another number format."""
    names = sorted(name for name, weight in weights.items() if weight.is_floating_point() and weight.numel())
    chosen = names[:: len(names) // (_SAMPLED // 4) + 1]
    parts = [weights[name].detach().flatten() for name in chosen]
    return torch.cat([part[:: max(1, len(part) // 4)][:4].float().cpu() for part in parts] or [torch.empty(0)])
