"""What the README and the pages of docs tell users to type: run where it costs little, else checked word for word."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from lora_graft.cli.app import app
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

PACK = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((PACK / "docs").glob("*.md")))]
ONLY_READ = ("batch", "demo", "examples", "ui")  # servers, and tests of their own that run them
TEXTS = {page: (PACK / page).read_text("utf-8") for page in (*PAGES, "CONTRIBUTING.md", "family/README.md")}


def blocks(text: str) -> list[str]:
    """What is set apart as code: indented by four, or between fences."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"(?:^    .*\n)+", text, re.M)
    return [*fenced, *(re.sub("^    ", "", block, flags=re.M) for block in indented)]


def lines() -> list[str]:
    """Every shell line of the pages once, comments and folders of programs left out."""
    found = "\n".join(block.replace("\\\n", " ") for text in TEXTS.values() for block in blocks(text))
    found += "\n" + "\n".join(re.findall(r"`((?:python|pip|make) [^`\n]+)`", "\n".join(TEXTS.values())))
    shell = [re.sub(r"\s+# .*", "", line).removeprefix(".venv/bin/") for line in found.splitlines()]
    return sorted({line for line in shell if re.match(r"(lora-graft|python|pip|make) ", line)})


COMMANDS = [line for line in lines() if line.startswith("lora-graft ") and "COMMAND" not in line]


def language_folder(folder: Path, seed: int, *, adapter: bool) -> None:
    """One layer of a language model, or a PEFT adapter for it; all models are light fine-tunes of one."""
    shapes = {"self_attn.q_proj": (24, 24), "self_attn.k_proj": (12, 24), "mlp.gate_proj": (40, 24)}
    first, other = (torch.Generator().manual_seed(s) for s in (0, 1 + seed))
    folder.mkdir()
    if adapter:
        name = "base_model.model.model.layers.0.{}.lora_{}.weight"
        tensors = {name.format(n, "A"): torch.randn(6, shape[1], generator=other) for n, shape in shapes.items()}
        tensors |= {name.format(n, "B"): torch.randn(shape[0], 6, generator=other) for n, shape in shapes.items()}
        config = {"peft_type": "LORA", "r": 6, "lora_alpha": 12, "target_modules": list(shapes)}
    else:
        made = {n: torch.randn(shape, generator=first) for n, shape in shapes.items()}
        tensors = {
            f"model.layers.0.{n}.weight": t + 0.1 * torch.randn(t.shape, generator=other) for n, t in made.items()
        }
        config = {"architectures": ["LlamaForCausalLM"]}
    save_file(tensors, folder / ("adapter_model.safetensors" if adapter else "model.safetensors"))
    (folder / ("adapter_config.json" if adapter else "config.json")).write_text(json.dumps(config))


def text_encoders(folder: Path) -> None:
    """A Qwen 3 of one layer, the same fine-tuned, and a LoRA for it."""
    dice, query = torch.Generator().manual_seed(0), "model.layers.0.self_attn.q_proj.weight"
    weight, more = (torch.randn(24, 24, generator=dice) for _ in range(2))
    for name, made in {"qwen_3_4b": weight, "qwen_3_4b_tuned": weight + 0.1 * more}.items():
        norm = {"model.layers.0.self_attn.q_norm.weight": torch.ones(24)}
        save_file({query: made} | norm, folder / f"{name}.safetensors")
    key = "lora_te_layers_0_self_attn_q_proj.lora_{}.weight"
    factors = {"up": torch.ones(24, 2), "down": torch.ones(2, 24)}
    save_file({key.format(end): factor for end, factor in factors.items()}, folder / "TE_LORA.safetensors")


@pytest.fixture(scope="module")
def shelf(family_models, tmp_path_factory):
    """The example family under the names that the pages use."""
    folder = tmp_path_factory.mktemp("shelf")
    files = {file.stem: file for file in family_models.rglob("*.safetensors")}
    names = {"LORA": "frame_a", "A": "frame_a", "B": "slant_a", "C": "stripes_a"}
    names |= {"loras/frame": "frame_a", "styles/stripes": "stripes_a"}
    for name in ("loras", "styles"):
        (folder / name).mkdir()
    for name, file in names.items():
        (folder / f"{name}.safetensors").symlink_to(files[f"family_{file}"])
    for name, file in {"SOURCE": "a", "OLD_BASE": "a", "TARGET": "b", "NEW_BASE": "b"}.items():
        (folder / name).symlink_to(files[f"family_{file}"])
    for number, name in enumerate(("OLD_MODEL", "NEW_MODEL", "A_DIR", "B_DIR", "C_DIR")):
        language_folder(folder / name, number, adapter=name.endswith("_DIR"))
    text_encoders(folder)
    for name in ("PROMPTS.txt", "prompts.txt"):
        (folder / name).write_text("red digit two\na green three\n")
    recipe = re.search(r"^```yaml\n(.*?)^```", TEXTS["docs/batch.md"], re.M | re.S)
    assert recipe and recipe[1].count("    steps: 25") == 1
    little = "    count: 4\n    draw_steps: 1\n    noisy_latents: 4\n    guards: 0\n    steps: 1"
    (folder / "recipe.yaml").write_text(recipe[1].replace("    steps: 25", little))
    for name, colour in {"REAL": 200, "GENERATED": 40}.items():
        (folder / name).mkdir()
        for shade in range(6):
            Image.new("RGB", (48, 32), (colour + shade, 10 * shade, 60)).save(folder / name / f"{shade}.png")
    return folder


def only_read(line: str) -> bool:
    """Whether a command needs servers, a cluster or models that answer, or has tests of its own."""
    return line.split()[1] in ONLY_READ or any(word in line for word in ("--address", ".jsonl", "distill A_DIR"))


@pytest.mark.parametrize("line", [line for line in COMMANDS if not only_read(line)])
def test_the_command_runs(line, shelf, tmp_path, monkeypatch):
    for entry in shelf.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_GRAFT_CACHE", str(shelf / "cache"))
    before = set(tmp_path.rglob("*"))
    arguments = shlex.split(line)[1:]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    named = [a for option, a in zip(arguments, arguments[1:], strict=False) if option in ("-o", "--report", "--plot")]
    assert {tmp_path / name for name in named} <= set(tmp_path.rglob("*")) - before


@pytest.mark.parametrize("line", [line for line in COMMANDS if only_read(line)])
def test_the_command_is_understood(line):
    import typer

    name, *arguments = shlex.split(line)[1:]
    made = typer.main.get_command(app).commands[name].make_context(name, arguments)
    workflow = made.params.get("workflow")
    if workflow is not None and workflow.name != "WORKFLOW_API.json":
        nodes = json.loads((PACK / workflow).read_text("utf-8")).values()
        titles = {node["_meta"]["title"]: node["inputs"] for node in nodes}
        for title, name in (choice.split("=")[0].rsplit(".", 1) for choice in made.params["sets"]):
            assert any(given.startswith(name) for given in titles[title])


def test_programs_and_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (PACK / "Makefile").read_text(encoding="utf-8"), re.M)
    extras = (PACK / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    wrong = []
    for line in lines():
        program, *words = shlex.split(line)
        if program == "make":
            wrong += [line] * (words[0] not in targets)
        elif program == "python" and words[0].endswith(".py"):
            file = PACK / words[0]
            wrong += [line] * (
                not file.is_file() or any(w not in file.read_text("utf-8") for w in words if w[:2] == "--")
            )
        elif program == "python" and words[0] == "-m" and words[1].startswith("lora_graft."):
            wrong += [line] * (importlib.util.find_spec(words[1]) is None)
        elif program == "python" and words[0] == "custom_nodes/LoRA-Graft":
            wrong += [line] * (not (PACK / "__main__.py").is_file())
        elif program == "pip" and "-e" in words:
            wrong += [line] * any(f"\n{extra} = [" not in extras for extra in re.findall(r"\w+", words[-1]))
    assert wrong == [] and sum(line.startswith("python benchmarks/") for line in lines()) > 3


PYTHON = [(page, block) for page in PAGES for block in blocks(TEXTS[page]) if block.startswith(("import ", "from "))]


@pytest.mark.parametrize("page, block", PYTHON, ids=[page for page, _ in PYTHON])
def test_python_runs(page, block, family_models, tmp_path, monkeypatch, capsys):
    (tmp_path / "models").symlink_to(family_models)  # what is there already is not written again
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_something_was_found():
    assert {line.split()[1] for line in COMMANDS} >= {"inspect", "similarity", "transfer", "merge", "resize", "convert"}
    assert {page for page, _ in PYTHON} >= {"README.md", "docs/kernels.md"}
