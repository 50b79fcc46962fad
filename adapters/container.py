"""The safetensors container: guarded reading, deterministic bytes, atomic publishing.

A file is: u64 length of the header, the header as JSON (name -> dtype, shape, data_offsets), the data. Written here
rather than by the library because its metadata order changes from run to run; the same adapter must give the same
bytes. Reading goes through the library, after the checks that make its errors speak plainly.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import AdapterError
from ..untrusted import parse_json
from ..writing import beside

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    **{getattr(torch, n): n.replace("uint", "U") for n in ("uint16", "uint32", "uint64") if hasattr(torch, n)},
}
_REPACK = "Convert it to .safetensors with the program that made it."
_PICKLED = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_AGAIN = "Download or copy the file again."
MOST_HEADER = 25_000_000  # bytes; adapters need some hundred thousand, and metadata with pictures in it some million
MOST_TENSORS = 100_000  # the largest adapters have ten thousand


def load(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Tensors (copied into memory, in file order), metadata and the sha256 of the file.

    Raises:
        AdapterError: no such file, a pickle, not safetensors, truncated, or a dtype that torch does not have.
    """
    file = Path(path)
    _guard(file)
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            metadata = dict(handle.metadata() or {})
            tensors = {key: handle.get_tensor(key).clone() for key in handle.keys()}  # noqa: SIM118
        return tensors, metadata, _sha256(file)
    except SafetensorError as problem:
        raise AdapterError(f"Not a valid safetensors file: {problem}", file=file, hint=_AGAIN) from problem
    except (AttributeError, KeyError, TypeError) as problem:
        raise AdapterError(f"A tensor has a type this version of torch cannot read: {problem}", file=file) from problem
    except OSError as problem:
        raise AdapterError(f"The file cannot be read: {problem.strerror or problem}", file=file) from problem


def _guard(file: Path) -> None:
    """Checks made before any tensor is touched, for errors that say what the file really is."""
    if not file.exists():
        raise AdapterError("No such file", file=file)
    if file.is_dir():
        raise AdapterError("This is a folder, not an adapter file", file=file)
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            head = handle.read(16)
            length = int.from_bytes(head[:8], "little")
            body = head[8:] + handle.read(length - 8) if 8 < length <= min(size - 8, MOST_HEADER) else head[8:]
    except OSError as problem:
        raise AdapterError(f"The file cannot be read: {problem.strerror or problem}", file=file) from problem
    if size == 0:
        raise AdapterError("The file is empty", file=file, hint=_AGAIN)
    if head[8:9] != b"{" and (file.suffix.lower() in _PICKLES or head.startswith(_PICKLED)):
        raise AdapterError(
            "This is a pickle file: opening one can run any code hidden in it, so it is refused",
            file=file,
            hint=_REPACK,
        )
    if head.lstrip()[:1] == b"<":
        raise AdapterError("This is a web page, not a safetensors file: the download failed", file=file, hint=_AGAIN)
    if head.startswith(b"version https://"):
        raise AdapterError(
            "This is a Git LFS pointer, not the file itself", file=file, hint="Fetch the file with 'git lfs pull'."
        )
    if head[8:9] != b"{":
        raise AdapterError("Not a safetensors file" if size > 16 else "The file is truncated", file=file, hint=_AGAIN)
    if length > size - 8:
        raise AdapterError(
            f"The file is truncated: its header alone needs {length + 8} bytes and it has {size}",
            file=file,
            hint=_AGAIN,
        )
    if length > MOST_HEADER:
        raise AdapterError(
            f"The header of the file has {length} bytes; no adapter's has more than {MOST_HEADER}", file=file
        )
    if body.count(b'"data_offsets"') > MOST_TENSORS:
        raise AdapterError(f"The file has more than {MOST_TENSORS} tensors; no adapter has", file=file)
    try:
        header = parse_json(body[:length])
        end = max((int(entry["data_offsets"][1]) for key, entry in header.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as problem:
        raise AdapterError("Not a safetensors file: its header makes no sense", file=file, hint=_AGAIN) from problem
    if 8 + length + end > size:
        raise AdapterError(
            f"The file is truncated: it should have {8 + length + end} bytes and has {size}", file=file, hint=_AGAIN
        )


def _sha256(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state dict, whatever its order."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        total.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's values in memory order, little-endian."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def chunks(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, header first. Tensors may share memory or be non-contiguous."""
    header: dict[str, object] = {"__metadata__": {k: metadata[k] for k in sorted(metadata)}} if metadata else {}
    # Widest types first keeps every tensor aligned; within a type the caller's order.
    order = sorted(tensors, key=lambda key: -tensors[key].element_size())
    start = 0
    for key in order:
        tensor = tensors[key]
        if tensor.dtype not in _NAMES:
            raise AdapterError(f"Numbers of type {tensor.dtype} cannot be written", key=key)
        end = start + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for key in order:
        yield _bytes(tensors[key])


def publish(path: str | os.PathLike, blocks: Iterable[bytes | memoryview], *, overwrite: bool) -> Path:
    """Writes a file whole or not at all, beside its final place first, and never over another unless told.

    Raises:
        AdapterError: the file exists, its folder does not, or the disk is full or refuses; nothing is left behind.
    """
    final = Path(path)
    if not overwrite and final.exists():
        raise _exists(final)
    temporary = beside(final)
    try:
        with temporary.open("xb") as out:
            for block in blocks:
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        _move(temporary, final, overwrite)
    except FileExistsError as problem:
        raise _exists(final) from problem
    except OSError as problem:
        raise AdapterError(
            f"The file cannot be written: {problem.strerror or problem}",
            file=final,
            hint="Nothing was written. Does the folder exist, is it writable, has it room?",
        ) from problem
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return final


def _move(temporary: Path, final: Path, overwrite: bool) -> None:
    """Gives the finished file its name in one step; FileExistsError when someone else took it meanwhile."""
    if overwrite:
        os.replace(temporary, final)
        return
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name, then move onto the claim
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, final)


def _exists(final: Path) -> AdapterError:
    return AdapterError(
        "The output file exists already and was left alone",
        file=final,
        hint="Choose another name, or allow overwriting.",
    )
