"""Every metric as a polars frame: one function a view, of the same name."""

from moetrace.analytics.metrics.frames import *  # noqa: F403
