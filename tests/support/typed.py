"""What a person types in a folder, as a module, for processes that are forked: tests/support/warm.py.

`python -m tests.support.typed FOLDER WORD...` runs a command of moetrace, `python -m tests.support.typed FOLDER
--python FILE` a program.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> int:
    """Run what the arguments say; return the exit code."""
    from moetrace.cli.main import run

    folder, *words = sys.argv[1:]
    os.chdir(folder)
    if words[0] == "--python":
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # an engine in this process, which has imported vLLM
        runpy.run_path(words[1], run_name="__main__")
        return 0
    return run(words)


if __name__ == "__main__":
    sys.exit(main())
