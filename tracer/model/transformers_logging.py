"""Keeping transformers from talking over what moetrace says."""

from __future__ import annotations


def quiet_transformers() -> None:
    """Let transformers report errors only, and draw no progress bars of its own."""
    from transformers.utils import logging  # noqa: PLC0415  seconds to import

    logging.set_verbosity_error()
    logging.disable_progress_bar()
