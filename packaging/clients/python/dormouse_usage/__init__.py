"""Usage and tags of Dormouse over HTTP: who used what, to the last byte-nanosecond.

    from dormouse_usage import Client

    dormouse = Client("http://127.0.0.1:7474", token)
    for item in dormouse.usage_items(group_by="tag:team"):
        print(item.value, item.amounts.memory_byte_nanoseconds)

Exact quantities are `int`. What the server refuses is a `Problem` with a `Reason`. Nothing but the standard library is
needed. What a question means is told in the server's specification, `/api/openapi.json`.
"""

from .client import Client, UsageQuery
from .problem import Problem, Reason, Unreachable
from .answers import (
    Amounts,
    Point,
    Sandbox,
    SandboxUsage,
    Slice,
    TagKey,
    Tags,
    Usage,
    UsageItem,
    Window,
)

__all__ = [
    "Amounts",
    "Client",
    "Point",
    "Problem",
    "Reason",
    "Sandbox",
    "SandboxUsage",
    "Slice",
    "TagKey",
    "Tags",
    "Unreachable",
    "Usage",
    "UsageItem",
    "UsageQuery",
    "Window",
]
