"""What installs what a command lacks on this machine: one line that a person can copy."""

from __future__ import annotations

import importlib.util
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files

from moetrace.store.errors import MoetraceError

LOCK = files("moetrace") / "requirements-cpu.lock"  # what the wheel ships: an engine on a CPU, pinned
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"  # where PyTorch has its builds for CPUs
WAIT = 10.0  # seconds that the driver of a GPU has to answer


def require(packages: tuple[str, ...], task: str, extra: str = "gpu") -> None:
    """Raise MoetraceError where one of the packages is not here, with the command that installs them.

    task: what needs them; extra: the extra of moetrace that has them
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MoetraceError(f"{task} needs {', '.join(missing)}: {install_command(extra)}")


def install_command(extra: str = "gpu") -> str:
    """Return the command for this Python and this machine, with what it is for.

    On a machine with a GPU, and where PyTorch is here already, the extra; else the lock of an engine on a CPU.
    """
    pip = f"{shlex.quote(sys.executable)} -m pip install"
    found = gpus()
    by_extra = f"{pip} 'moetrace[{extra}]'"
    if found:
        return f"for {found[0]}, {by_extra}"
    if extra != "gpu" and importlib.util.find_spec("torch") is not None:
        return by_extra
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "its builds are for Linux x86-64 (stores that were traced there are read anywhere)"
    lock = shlex.quote(str(LOCK))
    return f"no GPU is here; for a CPU, {pip} --no-deps --extra-index-url {CPU_BUILDS} -r {lock}"


def gpus() -> list[str]:
    """Return the names of the GPUs that their driver knows of."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    ask = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(ask, capture_output=True, text=True, timeout=WAIT, check=True)  # noqa: S603  no shell
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]
