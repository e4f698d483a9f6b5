"""What is answered. Fields are named as in the specification, in Python's spelling."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, Optional

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open window. Times are as the server writes them: RFC 3339 with nanoseconds, which `datetime` has not."""

    from_: str
    to: str

    @classmethod
    def read(cls, json: Json) -> Window:
        return cls(json["from"], json["to"])


@dataclass(frozen=True, slots=True)
class Amounts:
    """What was used: numbers for people, and the exact integers. 1 GB-second is 2**30 bytes for one second."""

    memory_gb_seconds: float
    disk_overage_gb_seconds: float
    vcpu_seconds: float
    memory_byte_nanoseconds: int
    disk_overage_byte_nanoseconds: int
    vcpu_milli_nanoseconds: int
    disk_byte_nanoseconds: int

    @classmethod
    def read(cls, json: Json) -> Amounts:
        return cls(
            json["memoryGbSeconds"],
            json["diskOverageGbSeconds"],
            json["vcpuSeconds"],
            int(json["memoryByteNanoseconds"]),
            int(json["diskOverageByteNanoseconds"]),
            int(json["vcpuMilliNanoseconds"]),
            int(json["diskByteNanoseconds"]),
        )


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a sandbox."""

    tags: dict[str, str]
    tags_last_updated_at: Optional[str]

    @classmethod
    def read(cls, json: Json) -> Tags:
        return cls(dict(json["tags"]), json["tagsLastUpdatedAt"])


@dataclass(frozen=True, slots=True)
class Point:
    """An hour or a day, cut at the ends of the window."""

    window: Window
    amounts: Amounts

    @classmethod
    def read(cls, json: Json) -> Point:
        return cls(Window.read(json), Amounts.read(json))


def points(json: Json) -> Optional[list[Point]]:
    """The points of an answer, where an interval was asked for."""
    return [Point.read(point) for point in json["points"]] if "points" in json else None


@dataclass(frozen=True, slots=True)
class UsageItem:
    """What a sandbox, or all time with one value of the tag, amounts to."""

    sandbox_id: Optional[str]
    value: Optional[str]
    amounts: Amounts
    tags: Optional[Tags]

    @classmethod
    def read(cls, json: Json) -> UsageItem:
        tags = Tags.read(json) if "tags" in json else None
        return cls(json.get("sandboxId"), json.get("value"), Amounts.read(json), tags)


@dataclass(frozen=True, slots=True)
class Usage:
    """A page of an org's usage. The total is of everything that matches, whichever page."""

    window: Window
    group_by: str
    basis: str
    items: list[UsageItem]
    untagged: Optional[Amounts]
    total: Amounts
    points: Optional[list[Point]]
    next_cursor: Optional[str]

    @classmethod
    def read(cls, json: Json) -> Usage:
        return cls(
            Window.read(json["window"]),
            json["groupBy"],
            json["basis"],
            [UsageItem.read(item) for item in json["items"]],
            Amounts.read(json["untagged"]) if "untagged" in json else None,
            Amounts.read(json["total"]),
            points(json),
            json["nextCursor"],
        )


@dataclass(frozen=True, slots=True)
class SandboxUsage:
    """One sandbox's usage, whether it still lives or not."""

    sandbox_id: str
    window: Window
    basis: str
    amounts: Amounts
    first_started_at: Optional[str]
    last_ended_at: Optional[str]
    tags: Tags
    points: Optional[list[Point]]

    @classmethod
    def read(cls, json: Json) -> SandboxUsage:
        return cls(
            json["sandboxId"],
            Window.read(json["window"]),
            json["basis"],
            Amounts.read(json),
            json["firstStartedAt"],
            json["lastEndedAt"],
            Tags.read(json),
            points(json),
        )


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox, as its latest generation stands."""

    sandbox_id: str
    generation: int
    plan: Optional[str]
    lifecycle: str
    created_at: str
    ended_at: Optional[str]
    tags: Tags

    @classmethod
    def read(cls, json: Json) -> Sandbox:
        return cls(
            json["sandboxId"],
            int(json["generation"]),
            json["plan"],
            json["lifecycle"],
            json["createdAt"],
            json["endedAt"],
            Tags.read(json),
        )


@dataclass(frozen=True, slots=True)
class TagKey:
    """A key that sandboxes are tagged with."""

    key: str
    sandbox_count: int
    value_count: int

    @classmethod
    def read(cls, json: Json) -> TagKey:
        return cls(json["key"], json["sandboxCount"], json["valueCount"])


@dataclass(frozen=True, slots=True)
class Slice:
    """A half-open interval of a sandbox's life at one shape and in one billing state, with both causes."""

    generation: int
    seq: int
    state: str
    reason: Optional[str]
    started_at: str
    ended_at: Optional[str]
    duration_nanoseconds: int
    vcpus_milli: int
    memory_base_bytes: int
    memory_plugged_bytes: int
    memory_requested_bytes: int
    disk_bytes: int
    opened_by: str
    closed_by: Optional[str]
    command_id: Optional[str]
    uncertainty_nanoseconds: int
    final: bool

    @classmethod
    def read(cls, json: Json) -> Slice:
        return cls(
            int(json["generation"]),
            json["seq"],
            json["state"],
            json["reason"],
            json["startedAt"],
            json["endedAt"],
            int(json["durationNanoseconds"]),
            json["vcpusMilli"],
            json["memoryBaseBytes"],
            json["memoryPluggedBytes"],
            json["memoryRequestedBytes"],
            json["diskBytes"],
            json["openedBy"],
            json["closedBy"],
            json["commandId"],
            int(json["uncertaintyNanoseconds"]),
            json["final"],
        )


def written(moment: str | datetime) -> str:
    """A moment as the server reads it."""
    if isinstance(moment, str):
        return moment
    if moment.tzinfo is None:
        raise ValueError("a datetime without a time zone names no moment: give it one, as datetime.now(timezone.utc)")
    return moment.isoformat()
