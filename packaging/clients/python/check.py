"""Asks a real server everything: check.py BASE_URL READ_TOKEN WRITE_TOKEN SANDBOX OPENAPI.

The sandbox must have ended, so that what it used stands still. Prints its usage by tag, as other clients must.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import datetime, timedelta, timezone

import dormouse_usage as usage
from dormouse_usage import Client, Problem, Reason, Unreachable

#: Classes of which the answers of the specification are made, with the members that are spread into others.
SCHEMAS = [
    (usage.Window, "Window", ()),
    (usage.Amounts, "Amounts", ()),
    (usage.Tags, "Tags", ()),
    (usage.Sandbox, "Sandbox", ("Tags",)),
    (usage.TagKey, "KeyInUse", ()),
    (usage.Slice, "Slice", ()),
    (usage.Usage, "Usage", ()),
    (usage.UsageItem, "UsageItem", ("Amounts", "Tags")),
    (usage.SandboxUsage, "SandboxUsage", ("Amounts", "Tags")),
]


def members(schema: dict[str, object], schemas: dict[str, dict[str, object]]) -> set[str]:
    """The properties of a schema and of what it is made of."""
    found: set[str] = set()
    properties = schema.get("properties")
    if isinstance(properties, dict):
        found |= set(properties)
    for part in [*_list(schema.get("allOf")), *_list(schema.get("oneOf"))]:
        if "$ref" in part:
            found |= members(schemas[str(part["$ref"]).rsplit("/", 1)[1]], schemas)
        else:
            found |= members(part, schemas)
    return found


def _list(value: object) -> list[dict[str, object]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def camel(name: str) -> str:
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(part.capitalize() for part in rest)


def check_specification(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        schemas = json.load(file)["components"]["schemas"]
    for cls, name, spread in SCHEMAS:
        ours = {camel(field.name) for field in dataclasses.fields(cls)}
        for part in spread:
            # A member that holds the part stands for the part's own.
            ours -= {"amounts"} if part == "Amounts" else {"tags"}
            ours |= members(schemas[part], schemas)
        theirs = members(schemas[name], schemas)
        assert ours == theirs, f"{name}: {ours ^ theirs} are on one side only"


def refused(reason: Reason, status: int, question: object) -> None:
    assert callable(question)
    try:
        question()
    except Problem as problem:
        assert (problem.reason, problem.status) == (reason, status), problem
        assert problem.title and problem.detail, problem
    else:
        raise AssertionError(f"this was not refused: {reason}")


def main(base_url: str, read_token: str, write_token: str, sandbox_id: str, specification: str) -> None:
    check_specification(specification)
    reader, writer = Client(base_url, read_token), Client(base_url, write_token)
    listed = list(reader.sandboxes(limit=1))
    ids = [sandbox.sandbox_id for sandbox in listed]
    assert sandbox_id in ids and ids == sorted(ids), ids
    sandbox = reader.sandbox(sandbox_id)
    assert sandbox.ended_at is not None and sandbox.generation > 1 << 53, sandbox

    slices = list(reader.slices(sandbox_id, limit=2))
    assert [piece.seq for piece in slices] == list(range(1, len(slices) + 1)), slices
    for before, after in zip(slices, slices[1:]):
        assert (before.closed_by, before.ended_at) == (after.opened_by, after.started_at), (before, after)
    last = slices[-1]
    assert last.ended_at is not None
    in_window = list(reader.slices(sandbox_id, from_=last.started_at, to=last.ended_at))
    assert in_window == [last], in_window

    tags = {"team": "red", "über".encode("idna").decode(): "ü & 😀"}
    first = writer.replace_tags(sandbox_id, tags)
    assert first.tags == tags and writer.replace_tags(sandbox_id, tags) == first == reader.tags(sandbox_id)
    keys = {key.key: key.sandbox_count for key in reader.tag_keys(limit=1)}
    assert keys["team"] >= 1, keys

    now = datetime.now(timezone.utc)
    alone = reader.sandbox_usage(sandbox_id, from_=now - timedelta(days=2), interval="1h")
    assert alone.points is not None
    exact = alone.amounts.memory_byte_nanoseconds
    assert exact > 0 and sum(point.amounts.memory_byte_nanoseconds for point in alone.points) == exact
    page = reader.usage(group_by="tag:team", filters={"team": ["red"]}, interval="1d")
    assert page.untagged is not None and page.points is not None and page.items[0].value == "red"
    assert page.total.memory_byte_nanoseconds == page.items[0].amounts.memory_byte_nanoseconds >= exact
    items = {item.sandbox_id: item for item in reader.usage_items(limit=1)}
    assert items[sandbox_id].amounts.memory_byte_nanoseconds == exact, items
    without = [item.sandbox_id for item in reader.usage_items(filters={"team": []})]
    assert sandbox_id not in without, without

    refused(Reason.SANDBOX_NOT_FOUND, 404, lambda: reader.sandbox("no/such?one"))
    refused(Reason.PERMISSION_DENIED, 403, lambda: reader.replace_tags(sandbox_id, {}))
    refused(Reason.INVALID_TAG, 400, lambda: writer.replace_tags(sandbox_id, {"dm:x": "y"}))
    refused(Reason.INVALID_WINDOW, 400, lambda: reader.usage(from_="2026-03-02", to="2026-03-01"))
    refused(Reason.INVALID_CURSOR, 400, lambda: reader.usage(cursor="forged"))
    refused(Reason.UNAUTHENTICATED, 401, lambda: Client(base_url, "nobody's").tags(sandbox_id))
    assert Reason("OF_A_NEWER_SERVER") is Reason.UNKNOWN
    try:
        Client("http://127.0.0.1:9", "t", timeout=5).tags(sandbox_id)
    except Unreachable:
        pass
    else:
        raise AssertionError("something answers on the discard port")
    assert writer.replace_tags(sandbox_id, {"team": "red"}).tags == {"team": "red"}
    print(f"{sandbox_id} {exact} byte-nanoseconds, team=red {page.items[0].amounts.memory_byte_nanoseconds}")


if __name__ == "__main__":
    main(*sys.argv[1:])
