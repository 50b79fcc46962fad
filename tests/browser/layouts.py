"""Where the nodes of each workflow stand and what the notes on the canvas say.

A layout is columns from left to right; a column is groups from top to bottom; a group is rows; a row is node ids of
``workflows/api/NAME.json`` side by side, or a :class:`Note`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Note:
    """Markdown on the canvas."""

    text: str
    width: int = 380


@dataclass(frozen=True)
class Layout:
    """``thumbnail``: ids of nodes whose pictures make the .jpg, one row each; ``sizes``: other than SHOWN_AT's."""

    columns: list[dict[str, list[str | Note]]]
    thumbnail: str
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)


SHOWN_AT = {  # node type → least width and height on the canvas
    "PreviewAny": (420, 420),
    "PreviewImage": (460, 330),
    "SaveImage": (520, 290),
    "CLIPTextEncode": (300, 110),
    "ImageGrid": (270, 130),
}

_EXAMPLES = """

This runs as it is on the example models. Write them into ComfyUI's models folder once, from the folder of ComfyUI, \
then press **R** here:

`python custom_nodes/LoRA-Graft examples`"""
_DRAWING = {"Prompt and size": ["clip", "vae", "prompt", "nothing", "latent"]}
_DRAWING_NOTE = Note("""### For your own models
- Text encoder and autoencoder: those of your base, or one **Load Checkpoint** node instead of the three loaders.
- Size, steps, cfg, sampler: what your base likes. The example models draw 64 × 64 digits: a word for a digit and a \
colour.""")


def _about(text: str) -> Note:
    return Note(text + _EXAMPLES)


LAYOUTS = {
    "load_and_apply": Layout(
        [
            {
                "Read me": [
                    _about("""## Load and apply
Reads a LoRA of any format, says what it is and draws with it, beside the same pictures without it.

**Replace:** the base model and the LoRA. The LoRA must have been trained on this base; to use it on another one, open \
the workflow *transfer_before_sampling*."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["base_a", "lora"], **_DRAWING},
            {"The LoRA": ["apply", "info"]},
            {
                "Without the LoRA": ["sample_without decode_without save_without"],
                "With the LoRA": ["sample_with decode_with save_with"],
            },
        ],
        "save_without save_with",
        {"info": (420, 300)},
    ),
    "similarity": Layout(
        [
            {
                "Read me": [
                    _about("""## Similarity of two bases
Compares two base models weight by weight: how much of their leading singular subspaces they share. 0 is chance, 1 is \
the same.

**Replace:** the two bases. The LoRA is optional: with it only the weights it changes are measured. High similarity: \
its LoRAs move well. Near 0: nothing training-free will help.""")
                ]
            },
            {"Models: choose yours": ["base_a", "base_b", "lora"]},
            {"Similarity": ["similarity"]},
            {"Result": ["number", "report"]},
            {"By block and role": ["heat_map"]},
        ],
        "heat_map",
        {"number": (420, 110), "heat_map": (620, 330)},
    ),
    "transfer_before_sampling": Layout(
        [
            {
                "Read me": [
                    _about("""## Transfer before sampling
Makes a LoRA of base A work on base B without training, and draws with it at once.

**Replace:** *Source* with the base your LoRA was trained on, *Target* with the base you want it on, and the LoRA. \
`auto` chooses the method and the report says why.

A LoRA that also changes the text encoder: connect source_clip and target_clip, and take the prompts' CLIP from the \
transfer's clip output."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["base_a", "base_b", "lora"], **_DRAWING},
            {"Transfer": ["transfer", "report"]},
            {
                "The target alone": ["sample_target decode_target save_target"],
                "With the transferred LoRA": ["sample_transferred decode_transferred save_transferred"],
                "What arrived": ["heat_map"],
            },
        ],
        "save_target save_transferred",
        {"heat_map": (620, 330)},
    ),
    "transfer_and_save": Layout(
        [
            {
                "Read me": [
                    _about("""## Transfer and save
Makes a LoRA for base B from a LoRA of base A and writes it to `output/loras`, with the settings and the hashes of \
both bases in its metadata. No file is ever overwritten.

**Replace:** *Source* with the base your LoRA was trained on, *Target* with the base you want it on, the LoRA, and \
the file name in *Save LoRA*. Choose `models/loras` there to find it in every LoRA loader.""")
                ]
            },
            {"Models: choose yours": ["base_a", "base_b", "lora"]},
            {"Transfer": ["transfer"]},
            {"Save": ["save", "path"], "What arrived": ["heat_map"]},
            {"Report": ["report"]},
        ],
        "heat_map",
        {"path": (420, 110)},
    ),
    "compare_transfer": Layout(
        [
            {
                "Read me": [
                    _about("""## Copy, transfer and source side by side
Draws the same seeds four times: the target alone, with the LoRA plainly copied, with the transferred LoRA, and the \
source with its own LoRA.

**Replace:** source, target and LoRA. Try other methods in *Transfer: rotation*: `lora-x` for LoRA-X adapters, \
`prolora` for comparison. Between relatives the copy is hard to beat."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["base_a", "base_b", "lora"], **_DRAWING},
            {"Transfer": ["copy", "rotate"], "The source's own": ["apply"]},
            {"Report": ["report"]},
            {
                "The same seeds": [
                    "sample_alone decode_alone",
                    "sample_copied decode_copied",
                    "sample_rotated decode_rotated",
                    "sample_source decode_source",
                ]
            },
            {
                "Side by side": [
                    "together",
                    "grid",
                    "save",
                    Note(
                        """Rows from the top: **target alone**, **copied**, \
**rotated**, **source with its LoRA**.

Set the grid's columns to the number of pictures, its cells to their size.""",
                        620,
                    ),
                ]
            },
        ],
        "save",
        {"save": (620, 680)},
    ),
    "batch": Layout(
        [
            {
                "Read me": [
                    _about("""## Batch
Moves a LoRA to another base and draws with it, once for every LoRA, base or prompt you name: `lora-graft batch` runs \
the API form of this workflow with every combination of values, on one or several servers:

`python custom_nodes/LoRA-Graft batch custom_nodes/LoRA-Graft/workflows/api/batch.json \
--set "Load LoRA.lora=family_*_a*" --set "Target.unet=family_b*|family_c*"`

It needs `pip install httpx websockets`.

**Replace:** source, target, LoRA and prompt. Your own workflow: Workflow, Export (API)."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["source", "target", "lora"], **_DRAWING},
            {"Transfer": ["transfer"]},
            {"Draw": ["sample decode save"]},
        ],
        "save",
    ),
    "lego_merge": Layout(
        [
            {
                "Read me": [
                    _about("""## LEGO merge of three
Takes three LoRAs of one base apart into rank-one units, clusters these and builds one LoRA of rank 12 from the \
clusters (LoRA-LEGO).

**Replace:** the LoRAs; connect as many as you like, a new input appears for each. Ranks, formats and trainers may \
differ. `strengths`: one number for each, in order. `k`: the rank of the result.""")
                ]
            },
            {"LoRAs: choose yours": ["frame", "slant", "stripes"]},
            {"Merge": ["merge"]},
            {"Save": ["save", "path"], "Which ranks they share": ["cluster_plot"]},
            {"Report": ["report"]},
        ],
        "cluster_plot",
        {"path": (420, 110)},
    ),
    "distill_to_another_base": Layout(
        [
            {
                "Read me": [
                    _about("""## Distil to another base
Between bases that were trained apart nothing made of weights carries a LoRA over. Here base S, a stranger, is taught \
what the LoRA does on base A: prompts from the LoRA's training tags, pictures drawn with both bases, a hundred \
steps of learning. It takes a minute or two on a CPU.

**Replace:** *Source* with the base your LoRA was trained on, *Target* with the base you want it on, the LoRA, and in \
*Synthetic Prompts* the template, by the one its help page shows or a few prompts of yours. To have a \
language model write more of them, connect *Load CLIP* with a Qwen or Gemma text encoder to its input *clip*.

Your own models: width, height, steps and cfg as you draw with them, 64 samples, `batch` as large as memory holds and \
`batch` × `accumulation` about 32. Each base its own text encoder and autoencoder."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["source", "target", "lora"], **_DRAWING},
            {"What to learn from": ["prompts", "data"]},
            {"Learn": ["distill", "curve"]},
            {
                "Save": ["save_lora path"],
                "The target alone": ["sample_target decode_target save_target"],
                "With the distilled adapter": ["sample_distilled decode_distilled save_distilled"],
            },
            {"Report": ["report"]},
        ],
        "save_target save_distilled",
        {"path": (420, 110)},
    ),
    "train_discriminator": Layout(
        [
            {
                "Read me": [
                    _about("""## Train a discriminator and draw with it
A discriminator is trained where the LoRA was trained, on real pictures against pictures of the plain base of *other* \
seeds and prompts, and written beside the LoRA. *Synthetic Dataset* then keeps the samples that look real to it; no \
real picture is needed any more.

**Replace:** the base, the LoRA, and the upper row by your real pictures: **Load Image** nodes and **Batch Images**, 5 \
to 20. Here the LoRA itself draws what stands for them. A **Load CLIP Vision** node connected to *Train Discriminator* \
and *Synthetic Dataset* sees content, which the autoencoder does not.

Later, or on another machine, **Load Discriminator** takes the place of all of this but *Synthetic Dataset*."""),
                ]
            },
            {
                "Models: choose yours": ["source", "lora", "clip", "vae"],
                "Prompts and size": ["prompt_real", "prompt_generated", "nothing", "latent"],
            },
            {
                "Real pictures": ["apply sample_real decode_real save_real"],
                "The plain base": ["sample_generated decode_generated save_generated"],
            },
            {"Discriminator": ["train", "trust"]},
            {"Samples that it chooses": ["data", "previews"]},
            {"Report": ["report"]},
        ],
        "save_generated previews",
        {"trust": (420, 260)},
    ),
    "lora_to_lorax": Layout(
        [
            {
                "Read me": [
                    _about("""## Turn a LoRA into a LoRA-X adapter and move it
A LoRA-X adapter lies in the strongest directions of its base, so that projection carries it to relatives without \
training. Here base A teaches itself: teacher is A with the ordinary LoRA, student is A with a LoRA-X adapter. Then \
both are projected on base B: the ordinary LoRA loses most of its effect, the LoRA-X adapter keeps it.

**Replace:** *Source* with the base of your LoRA, *Target* with a relative of it, the LoRA, and in *Synthetic \
Prompts* the template. `rank`: about a quarter of the width of the base, the same share as `k_share` in the \
transfers. LoRA-X learns best at a higher rate than other kinds; `learning_rate` is set for these models, 0 chooses a \
careful one."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["source", "target", "lora"], **_DRAWING},
            {"What to learn from": ["prompts", "data"]},
            {"Learn": ["distill", "curve"]},
            {"Move": ["move_ordinary", "move_lorax"]},
            {
                "Save the LoRA-X adapter": ["save_lora path"],
                "The target alone": ["sample_target decode_target save_target"],
                "The ordinary LoRA, projected": ["sample_ordinary decode_ordinary save_ordinary"],
                "The LoRA-X adapter, projected": ["sample_lorax decode_lorax save_lorax"],
            },
            {"Report": ["report"]},
        ],
        "save_target save_ordinary save_lorax",
        {"path": (420, 110)},
    ),
    "pictures_to_lorax": Layout(
        [
            {
                "Read me": [
                    _about("""## Train a LoRA-X adapter from pictures and move it
Ten pictures with captions, no teacher and no LoRA: base A learns a LoRA-X adapter from them, which lies in the \
strongest directions of A. Projection then carries it to B, a fine-tune of A, and to C, which is A pruned, without \
training (LoRA-X, the paper's own way).

**Replace:** *Picture Dataset*: your folder, with a text file beside each picture, or captions one a line, and the \
size to learn at. *Source*: the base to train on. The relatives: where it should go. `rank`: about a quarter of the \
width of the base, the same share as `k_share` in the transfers.

Too little of the effect: more steps. Always the same pictures: fewer steps, or more pictures."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["source", "base_b", "base_c"], **_DRAWING},
            {"What to learn from": ["data"]},
            {"Learn": ["distill", "curve"]},
            {"Move": ["move_b", "move_c"], "Save the adapter": ["save_lora", "path"]},
            {
                "A alone": ["sample_alone decode_alone save_alone"],
                "A with the adapter": ["sample_a decode_a save_a"],
                "B with it, by projection": ["sample_b decode_b save_b"],
                "C with it, by projection": ["sample_c decode_c save_c"],
            },
            {"Report": ["report"]},
        ],
        "save_alone save_a save_b save_c",
        {"path": (420, 110)},
    ),
    "merge_before_sampling": Layout(
        [
            {
                "Read me": [
                    _about("""## Merge before sampling
Makes one LoRA of two and draws with it at once, beside the base alone.

**Replace:** the base and the LoRAs, which must have been trained on it or a relative; connect as many as you like. \
Other methods stand in `method`; the workflow *compare_merges* draws several side by side."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["base_a", "frame", "stripes"], **_DRAWING},
            {"Merge": ["merge", "apply"]},
            {
                "The base alone": ["sample_base decode_base save_base"],
                "With the merged LoRA": ["sample_merged decode_merged save_merged"],
            },
            {"Report": ["report", "plot"]},
        ],
        "save_base save_merged",
    ),
    "compare_merges": Layout(
        [
            {
                "Read me": [
                    _about("""## Merge methods compared
Merges the same three LoRAs in five ways and draws the same seeds with each: the exact sum (rank 24), and SVD cut, \
LEGO, DARE and TIES at half that rank.

**Replace:** the base, the LoRAs, and `method` in the merging nodes. `k` is the rank of the \
result."""),
                    _DRAWING_NOTE,
                ]
            },
            {"Models: choose yours": ["base_a", "frame", "slant", "stripes"], **_DRAWING},
            {
                "Merge": ["concat svd lego dare ties", "apply_concat apply_svd apply_lego apply_dare apply_ties"],
                "The same seeds": ["sample_concat sample_svd sample_lego sample_dare sample_ties", "sample_base"],
            },
            {
                "Side by side": [
                    "together",
                    "decode",
                    "grid",
                    "save",
                    Note(
                        """Rows from the top: **base alone**, **exact \
sum**, **SVD cut**, **LEGO**, **DARE**, **TIES**.

Set the grid's columns to the number of pictures, its cells to their size.""",
                        620,
                    ),
                ]
            },
        ],
        "save",
        {"save": (620, 960)},
    ),
}
