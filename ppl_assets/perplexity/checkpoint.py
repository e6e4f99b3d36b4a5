"""A model folder on disk: which files decide, what is refused unread, and fingerprints of them.

Belongs here: what can be said of a checkpoint without loading it.
"""

import json
from collections.abc import Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from ppl_assets.fingerprint import fingerprint
from ppl_assets.perplexity.errors import ModelError

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

UNDECISIVE = frozenset(
    {
        "_name_or_path",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Keys of config.json that move no score: where it came from, what generation reads, and the dtype, which is ours."""


def check_folder(folder: Path) -> list[Path]:
    """The weight files of a model folder that transformers loads, sorted by name.

    Raises:
        ModelError: configuration or weights are missing, weights are pickled, or the checkpoint brings its own code.
    """
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file() and "auto_map" in _json(file):
            raise ModelError(
                f"{folder} brings its own code (auto_map in {name}), which is never run; "
                "give a model that transformers knows"
            )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give the folder that save_pretrained wrote")
    files = [folder / name for name in _weight_names(folder)]
    absent = [file.name for file in files if not file.is_file()]
    if absent and any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise ModelError(f"{folder} holds pickled weights, which can run code when loaded; convert them to safetensors")
    if absent:
        raise ModelError(f"{folder} has no {', '.join(absent)}; give a complete folder with safetensors weights")
    return files


def _weight_names(folder: Path) -> list[str]:
    """What transformers reads: what config.json names, else one file, else the shards that an index names."""
    whole, index = "model.safetensors", "model.safetensors.index.json"
    found = next((name for name in (whole, index) if (folder / name).is_file()), whole)
    wanted = str(_json(folder / "config.json").get("transformers_weights") or found)
    if not wanted.endswith(".index.json") or not (folder / wanted).is_file():
        return [wanted]
    return sorted(set(_json(folder / wanted)["weight_map"].values()))


WIDTHS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point dtypes as safetensors names them."""


def widest_dtype(files: Sequence[Path]) -> torch.dtype:
    """The narrowest dtype that holds every weight of these files exactly; float32 where none is floating-point.

    Read from the weights themselves: the dtype in config.json is often another one, and transformers would round to it.

    Raises:
        ModelError: a file is damaged.
    """
    found = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged or cut short ({error}); fetch or copy it again") from error
    held = [WIDTHS[name] for name in sorted(found) if name in WIDTHS]
    return reduce(torch.promote_types, held) if held else torch.float32


def config_fingerprint(folder: Path) -> str:
    """Hash of what config.json says of the computation: rotations, windows, norms, caps; 32 hexadecimal digits."""
    return fingerprint(_decisive(_json(folder / "config.json")))


def _decisive(content: Any) -> Any:
    """JSON without the :data:`UNDECISIVE` keys, at every depth."""
    if isinstance(content, dict):
        return {key: _decisive(value) for key, value in content.items() if key not in UNDECISIVE}
    return [_decisive(value) for value in content] if isinstance(content, list) else content


def file_hash(files: Sequence[Path]) -> str:
    """Hash of the bytes of files in their order, read in blocks; 32 hexadecimal digits.

    Read once a process: again only where a size or time has changed.
    """
    stats = [file.stat() for file in files]
    return _hashed(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)))


@lru_cache(maxsize=32)
def _hashed(files: tuple[tuple[Path, int, int], ...]) -> str:
    state = xxhash.xxh3_128()
    for file, _size, _time in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                state.update(block)
    return state.hexdigest()


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} is not valid JSON; give a complete model folder") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is no JSON object; give a complete model folder")
    return content
