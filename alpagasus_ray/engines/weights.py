"""A checkpoint of a run on the machine where a model is started from it."""

import os
import tempfile

import filelock
import pyarrow.fs as pafs

from alpagasus_ray.config import digest
from alpagasus_ray.engines.identity import Configured
from alpagasus_ray.store.storage import Storage


def at_hand(model: Configured, weights: Storage | None) -> Configured:
    """The model with its checkpoint on this machine: one on an object store is fetched, once for each node."""
    if weights is None or weights.is_local:
        return model
    infos = weights.fs.get_file_info(pafs.FileSelector(weights.root))
    files = [info for info in infos if info.type == pafs.FileType.File]
    known = digest([weights.root, sorted((info.base_name, info.size, str(info.mtime)) for info in files)])
    # named by sizes and times of the files, so that a checkpoint that was trained anew is fetched anew
    folder = os.path.join(tempfile.gettempdir(), f"alpagasus-model-{known}")
    os.makedirs(folder, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        for info in files:  # what lies in directories below is the state of a training that may go on
            target = os.path.join(folder, info.base_name)
            if not (os.path.exists(target) and os.path.getsize(target) == info.size):
                pafs.copy_files(info.path, target, source_filesystem=weights.fs, destination_filesystem=pafs.LocalFileSystem())
    return model.model_copy(update={"model": folder})
