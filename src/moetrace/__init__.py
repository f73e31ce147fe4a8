"""moetrace: which experts a Mixture-of-Experts model uses for each language, and training just those.

What a program needs is here, and in `moetrace.store`, `moetrace.analytics.metrics`,
`moetrace.analytics.uncertainty` and `moetrace.tracer.training`; modules below these are private and may move. Nothing
is imported before it is asked for:
`Store`, `connect` and `read_mask` need neither torch nor vLLM, `traced`, `steered` and `apply_mask` need what they work
on.

- `Store(place)`: a store's runs, commits and tables, as polars frames and Arrow datasets
- `connect(place)`: a store as a DuckDB connection with every view
- `plots`: the report's charts one by one, as Altair charts
- `read_mask(path)`: a mask file, checked
- `traced(llm, store)`: records what an engine of vLLM routes inside a `with` block
- `steered(llm, file)`: steers what an engine of vLLM runs inside a `with` block by an intervention
- `tap_arguments(model)`: what an engine that compiles must be made with to be traced, or steered
- `apply_mask(model, mask)`: lets nothing of a transformers model be trained but the experts of a mask
- `MoetraceError`: the base of every error that moetrace raises on purpose
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace._doors import doors

if TYPE_CHECKING:
    from moetrace.analytics import plots
    from moetrace.analytics.database.connection import connect
    from moetrace.store.errors import MoetraceError
    from moetrace.store.mask import read_mask
    from moetrace.store.read.reader import Store
    from moetrace.tracer.recording.attach import tap_arguments, traced
    from moetrace.tracer.steering.attach import steered
    from moetrace.tracer.training.masking import apply_mask

__all__ = [
    "MoetraceError",
    "Store",
    "apply_mask",
    "connect",
    "plots",
    "read_mask",
    "steered",
    "tap_arguments",
    "traced",
]

__getattr__, __dir__ = doors(
    __name__,
    {
        "MoetraceError": "store.errors",
        "Store": "store.read.reader",
        "apply_mask": "tracer.training.masking",
        "connect": "analytics.database.connection",
        "plots": "analytics",
        "read_mask": "store.mask",
        "steered": "tracer.steering.attach",
        "tap_arguments": "tracer.recording.attach",
        "traced": "tracer.recording.attach",
    },
)
