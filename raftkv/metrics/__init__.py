"""What a member shows of itself to Prometheus: the families, how they are written, and the figures of the process.

Reads plain counters when it is asked; nothing here is called per request. Knows no member: who joins the two hands in
a reader per family (api.figures).
"""

from raftkv.metrics.exposition import CONTENT_TYPE, Exposition, Labels, Reader
from raftkv.metrics.process import Descriptors, max_virtual_memory_bytes, process_text
from raftkv.metrics.tables import ALL_FAMILIES, BY_NAME, EXTENSIVE, bounds, new_histogram

__all__ = [
    "ALL_FAMILIES",
    "BY_NAME",
    "CONTENT_TYPE",
    "EXTENSIVE",
    "Descriptors",
    "Exposition",
    "Labels",
    "Reader",
    "bounds",
    "max_virtual_memory_bytes",
    "new_histogram",
    "process_text",
]
