"""A base model from the Hugging Face hub: pinned to a commit, without pickled weights, or from this machine's copy."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ppl_assets.perplexity.errors import ModelError

WANTED_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
"""Weights, configuration and tokenizer: what is downloaded of a repository."""

UNWANTED_FILES = ["*/*", "consolidated*"]
"""Copies of the weights in other layouts."""

TRANSPORT_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]
"""What the hub's HTTP client raises; which client that is differs between versions of huggingface_hub."""


def download(source: str, revision: str) -> tuple[Path, str]:
    """Folder and commit of a Hugging Face model; a copy that is already on this machine serves without network.

    Raises:
        ModelError: the model is not there, is gated, has only pickled weights, or the hub cannot be reached.
    """
    try:
        info = HfApi().model_info(source, revision=revision)
        names = [file.rfilename for file in info.siblings or []]
        if names and not any(name.endswith(".safetensors") for name in names):
            raise ModelError(
                f"{source} has no safetensors weights, and pickled ones can run code when loaded; name a repository or "
                "revision with safetensors"
            )
        return _snapshot(source, str(info.sha), local_only=False), str(info.sha)
    except GatedRepoError as error:
        raise ModelError(
            f"{source} is gated; accept its terms and run `hf auth login`, or give a local folder"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{source} has no revision {revision!r}; name a branch, tag or commit that it has") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"no model {source!r} on the Hugging Face hub; check the id, or give a local folder or .gguf file"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, TRANSPORT_ERROR, OSError) as error:
        return _on_this_machine(source, revision, error)


def _on_this_machine(source: str, revision: str, error: BaseException) -> tuple[Path, str]:
    """The copy that an earlier run downloaded."""
    try:
        folder = _snapshot(source, revision, local_only=True)
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{source} is neither a local path nor on this machine, and the Hugging Face hub cannot be reached; give a "
            "local folder or .gguf file, or run once with network"
        ) from error
    return folder, folder.name


def _snapshot(source: str, revision: str, local_only: bool) -> Path:
    return Path(
        snapshot_download(
            source,
            revision=revision,
            allow_patterns=WANTED_FILES,
            ignore_patterns=UNWANTED_FILES,
            local_files_only=local_only,
        )
    )
