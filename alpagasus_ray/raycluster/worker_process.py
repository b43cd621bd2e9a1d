"""Whether a process can work on what a driver hands it: it runs the same version, and sees the run. Needs no Ray: it may be the
driver's own process.
"""

import platform

import tenacity

from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import MANIFEST, StageDir
from alpagasus_ray.version import __version__

SHARE = "the run must be on storage that all nodes share: s3://…, gs://…, or a directory that is mounted on each"
WAITS = tenacity.wait_exponential(multiplier=0.5, max=4)
ALIKE = "install the same packages on all nodes (requirements.lock)"


def take_part(source: StageDir, version: str) -> None:
    """Refuse, in a process that is about to work for a driver, where it cannot (`unfit`): a `UsageError`."""
    reason = unfit(source, version)
    if reason is not None:
        raise UsageError(reason)


def unfit(source: StageDir, version: str) -> str | None:
    """Why the process that asks cannot work on what a finished stage has left, for a driver of this version of the package."""
    if version != __version__:
        return f"{platform.node()}: alpagasus-ray is {__version__}, and the driver's is {version}; {ALIKE}"
    try:
        if not _sees(source):
            return f"{platform.node()} does not see {source.storage.root}; {SHARE}"
    except OSError as error:
        return f"{platform.node()} cannot read {source.storage.root}: {error.strerror or error}; {SHARE}"
    return None


@tenacity.retry(retry=tenacity.retry_if_exception_type(OSError), stop=tenacity.stop_after_attempt(4), wait=WAITS, reraise=True)
def _sees(source: StageDir) -> bool:
    """Tried again, for an object store may be away for a moment."""
    return source.storage.exists(MANIFEST)
