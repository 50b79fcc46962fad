"""Language models opened by transformers, with adapters put on them by PEFT. Nothing is fetched and no pickle read."""

from __future__ import annotations

import copy
import tempfile
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .. import adapters
from ..adapters import Adapter
from ..bases import FileBase, open_base
from ..bases.language import language_model
from ..errors import AdapterError, BaseModelError, SettingsError, WrongBaseError
from ..jobs.check import check_fits
from ..jobs.transfer.plan import plan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass
class LanguageModel:
    """A causal language model in memory.

    model: transformers' own, or PEFT's around it. ends: ids at which a text ends. base: its files.
    """

    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    base: FileBase

    @property
    def label(self) -> str:
        return self.base.label

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config()


def require_libraries() -> None:
    """SettingsError where transformers or peft is not installed."""
    lacking = [name for name in ("transformers", "peft") if find_spec(name) is None]
    if lacking:
        raise SettingsError(
            f"Distilling a language model needs {' and '.join(lacking)}, which is not installed",
            hint='Install it: pip install "lora-graft[llm]".',
        )


def is_language_model(path: Path) -> bool:
    """Whether a folder holds a language model as transformers keeps it, and no diffusers pipeline."""
    path = Path(path)
    return path.is_dir() and not (path / "model_index.json").is_file() and language_model(path) is not None


def open_model(path: Path, *, device: str = "cpu", precision: str = "auto") -> LanguageModel:
    """Open a model's folder with its tokenizer.

    Raises:
        BaseModelError: no language model, a shard missing or broken, no tokenizer, or one that cannot be read.
        SettingsError: an encoder-decoder model, or a library that is missing.
    """
    require_libraries()
    path = Path(path)
    base = open_base(path)
    config = language_model(path) if path.is_dir() else None
    if config is None:
        raise BaseModelError(
            "This is no language model", file=path, hint="Give a folder as transformers writes it, with config.json."
        )
    if config.get("is_encoder_decoder"):
        raise SettingsError("Encoder-decoder models cannot be distilled on text; causal ones can", file=path)
    tokenizer = _tokenizer(path)
    import transformers

    dtype = DTYPES[chosen_precision(precision, device)]
    quiet = transformers.utils.logging
    level = quiet.get_verbosity()
    quiet.set_verbosity_error()
    bars = quiet.is_progress_bar_enabled()
    quiet.disable_progress_bar()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as problem:
        raise BaseModelError(f"transformers cannot open the model: {_first_line(problem)}", file=path) from problem
    finally:
        quiet.set_verbosity(level)
        if bars:
            quiet.enable_progress_bar()
    model.requires_grad_(False)
    more = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = {tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])} - {None}
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id
    )
    if not getattr(model, "is_quantized", False):  # those lie where their library puts them
        model = model.to(device)
    return LanguageModel(model.eval(), tokenizer, tuple(sorted(ends)), base)


def chosen_precision(asked: str, device: str) -> str:
    """fp32 on a CPU and bf16 on a GPU that has it, where nothing is asked."""
    if asked != "auto":
        return asked
    return "bf16" if str(device).startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"


def _tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise BaseModelError(
            "The model has no tokenizer",
            file=path,
            hint="Copy tokenizer.json and tokenizer_config.json from where the model comes from into its folder.",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # the tokenizers library raises plain Exception for a broken file
        raise BaseModelError(f"The tokenizer cannot be read: {_first_line(problem)}", file=path) from problem
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            "The tokenizer has no token for the end of a text",
            file=path,
            hint="Name it in tokenizer_config.json (eos_token).",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def check_belongs(adapter: Adapter, base: FileBase) -> None:
    """WrongBaseError where a module of the adapter has no weight in the base, or one of another shape."""
    plan(adapter, base, base)
    check_fits(adapter.modules.values(), base.names, base.weights())
    weights = base.weights()
    for key in adapter.modules:
        found = base.names.resolve(key)
        if found is None or found.name not in weights:
            raise WrongBaseError(
                f"The model {base.label} has no weight for a module of the adapter",
                looks_like="another model",
                advice="Choose the base it was trained on as the source.",
                file=adapter.file,
                key=key,
            )


def with_adapter(lm: LanguageModel, adapter: Adapter, name: str = "default", *, trainable: bool = False) -> Any:
    """PEFT's model with the adapter on it, beside those that it has; `lm.model` is that model from now on.

    Raises:
        AdapterError: it is not for this model, or PEFT does not load all of it.
    """
    from peft import PeftModel

    check_belongs(adapter, lm.base)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        layout = "same" if adapter.layout == "peft" else "peft"
        folder = adapters.write(adapter, Path(scratch) / "adapter", layout=layout, names=lm.base.names)
        try:
            if isinstance(lm.model, PeftModel):
                lm.model.load_adapter(folder, name, is_trainable=trainable)
            else:
                lm.model = PeftModel.from_pretrained(lm.model, folder, name, is_trainable=trainable)
        except (ValueError, RuntimeError, KeyError, TypeError) as problem:
            raise AdapterError(f"PEFT cannot load the adapter: {_first_line(problem)}", file=adapter.file) from problem
    lost = [str(one.message) for one in seen if "missing adapter keys" in str(one.message)]
    if lost:
        raise AdapterError(f"PEFT did not load all of the adapter: {lost[0].splitlines()[0]}", file=adapter.file)
    lm.model.set_adapter(name)
    lm.model.eval()
    return lm.model


def same_tokenizer(a: LanguageModel, b: LanguageModel) -> bool:
    """Whether both models cut every text into the same ids."""
    one, other = a.tokenizer, b.tokenizer
    if one.get_vocab() != other.get_vocab() or a.config.vocab_size != b.config.vocab_size:
        return False
    backends = [getattr(t, "backend_tokenizer", None) for t in (one, other)]
    if any(backend is None for backend in backends):
        return type(one) is type(other)
    return _rules(backends[0]) == _rules(backends[1])


def _rules(backend: Any) -> str:
    backend = copy.deepcopy(backend)
    backend.no_padding()
    backend.no_truncation()
    return backend.to_str()
