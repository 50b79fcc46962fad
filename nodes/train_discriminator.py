"""Train Discriminator and Load Discriminator: what a LoRA's real pictures look like, in a file beside the LoRA."""

from __future__ import annotations

from comfy_api.latest import io

from . import host
from .common import CATEGORY, to_adapter
from .distilling import learning, name_of
from .looking import DISCRIMINATOR, Eye
from .save_lora import FOLDERS, saved


class TrainDiscriminator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoraGraft_TrainDiscriminator",
            display_name="Train Discriminator",
            category=CATEGORY,
            description="Learns to tell real pictures of what a LoRA makes from generated ones, and writes that into a "
            "file beside the LoRA. Synthetic Dataset then chooses its samples by it, without any real picture "
            "(Trans-LoRA, arXiv 2405.17258).",
            search_aliases=["discriminator", "classifier", "trans-lora", "train filter"],
            is_output_node=True,
            inputs=[
                io.Image.Input(
                    "real", tooltip="Real pictures of what the LoRA makes, such as those it was trained on: 5 to 20."
                ),
                io.Image.Input(
                    "generated",
                    tooltip="Pictures of the plain base without the LoRA, of other seeds and prompts than the samples "
                    "that will be judged: 30 or more.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="",
                    tooltip="Beginning of the file name, perhaps with subfolders; empty takes the LoRA's name. "
                    "_discriminator and a counter follow.",
                ),
                io.Combo.Input(
                    "folder",
                    options=list(FOLDERS),
                    default="output/loras",
                    tooltip="Where the LoRA is, so that both travel together.",
                ),
                io.LoraModel.Input(
                    "lora", optional=True, tooltip="The LoRA it belongs to; its hash goes into the file."
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="What looks at the pictures. The best choice; the same model is needed to judge samples.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Without clip_vision: the source's VAE looks. Without either, the pixels alone must do.",
                ),
            ],
            outputs=[
                DISCRIMINATOR.Output("discriminator", display_name="discriminator", tooltip="For Synthetic Dataset."),
                io.String.Output("report", display_name="report", tooltip="How far to trust it, in Markdown."),
                io.String.Output("path", display_name="path", tooltip="Full path of the new file."),
            ],
        )

    @classmethod
    def execute(cls, real, generated, filename_prefix, folder, lora=None, clip_vision=None, vae=None) -> io.NodeOutput:
        from ..jobs.distill.discriminator import report, save, train_discriminator

        kind = "clip_vision" if clip_vision is not None else "latents" if vae is not None else "pixels"
        eye = Eye(kind, clip_vision, vae, height=generated.shape[1], width=generated.shape[2])
        adapter = None if lora is None else to_adapter(lora)
        whose = {} if adapter is None else {"lora": name_of(adapter), "lora_digest": adapter.digest}
        with learning():
            classes = [eye.embed(images.clone()) for images in (real, generated)]
            found = train_discriminator(*classes, eye.encoder(classes[1].shape[1]), **whose)
        prefix = (filename_prefix.strip() or whose.get("lora") or "LoRA-Graft") + host.DISCRIMINATOR
        path = saved(host.save_folder(FOLDERS[folder]), prefix, lambda path: save(found, path))
        text = report(found) + f"\nSaved {path}\n"
        return io.NodeOutput(found, text, str(path), ui={"text": (text,)})


class LoadDiscriminator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        files = host.discriminator_files() or ["none saved yet"]
        return io.Schema(
            node_id="LoraGraft_LoadDiscriminator",
            display_name="Load Discriminator",
            category=CATEGORY,
            description="Reads a discriminator that Train Discriminator wrote, from the LoRA folders or the input "
            "folder.",
            search_aliases=["open discriminator", "classifier", "trans-lora"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files,
                    default=files[0],
                    tooltip="The discriminator. Files with _discriminator in their name are listed.",
                ),
            ],
            outputs=[
                DISCRIMINATOR.Output("discriminator", display_name="discriminator", tooltip="For Synthetic Dataset."),
                io.String.Output("report", display_name="report", tooltip="How far to trust it, in Markdown."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        path = host.discriminator_path(file)
        return path.stat().st_mtime_ns if path and path.exists() else 0

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from ..errors import AdapterError
        from ..jobs.distill.discriminator import load, report

        path = host.discriminator_path(file)
        if path is None:
            raise AdapterError("No such file", file=file, hint="Train Discriminator writes one.")
        found = load(path)
        return io.NodeOutput(found, report(found))
