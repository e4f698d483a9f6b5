"""Asking the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Optional, TypedDict, TypeVar, Unpack
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from .answers import Sandbox, SandboxUsage, Slice, TagKey, Tags, Usage, UsageItem, written
from .problem import Problem, Reason, Unreachable

Moment = str | datetime
Interval = Literal["1h", "1d"]
Basis = Literal["plugged", "requested", "greater", "lesser"]
Attribution = Literal["live", "asof"]
Sort = Literal["-memoryGbSeconds", "-diskOverageGbSeconds"]
Params = dict[str, str]
T = TypeVar("T")

#: The server gives an answer up after 10 seconds.
TIMEOUT_SECONDS = 15.0
#: Longer than any answer of a page of 500 items.
ANSWER_BYTES_MAX = 64 << 20


class UsageQuery(TypedDict, total=False):
    """What of an org's usage. What is left out is as the specification says."""

    #: `sandbox`, or `tag:` and a key.
    group_by: str
    #: Tag keys with the values that count; an empty list counts what has no tag of the key.
    filters: Mapping[str, Sequence[str]]
    from_: Moment
    to: Moment
    basis: Basis
    attribution: Attribution
    sort: Sort
    #: So many items at once.
    limit: int


class Client:
    """Speaks for the org of one token. It keeps nothing between questions, so threads may share it."""

    def __init__(self, base_url: str, token: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("the base URL begins with http:// or https://")
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout = timeout

    def usage(
        self,
        *,
        interval: Optional[Interval] = None,
        cursor: Optional[str] = None,
        **query: Unpack[UsageQuery],
    ) -> Usage:
        """A page of the org's usage, by sandbox or by `tag:KEY`."""
        params = _params(
            groupBy=query.get("group_by"),
            interval=interval,
            basis=query.get("basis"),
            attribution=query.get("attribution"),
            sort=query.get("sort"),
            limit=query.get("limit"),
            cursor=cursor,
        )
        params |= _window(query.get("from_"), query.get("to"))
        filters = query.get("filters", {})
        params |= {f"filter[tag:{key}]": ",".join(values) for key, values in filters.items()}
        return Usage.read(self._ask("GET", "/api/usage", params))

    def usage_items(self, **query: Unpack[UsageQuery]) -> Iterator[UsageItem]:
        """All items, the greatest first, page after page of `limit`. All pages tell of one moment."""
        cursor = None
        while True:
            page = self.usage(cursor=cursor, **query)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def sandboxes(self, *, limit: Optional[int] = None) -> Iterator[Sandbox]:
        """All sandboxes of the org by id, those that have ended too."""
        return self._pages("/api/sandboxes", _params(limit=limit), Sandbox.read)

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """One sandbox."""
        return Sandbox.read(self._ask("GET", _path(sandbox_id), {}))

    def sandbox_usage(
        self,
        sandbox_id: str,
        *,
        from_: Optional[Moment] = None,
        to: Optional[Moment] = None,
        interval: Optional[Interval] = None,
        basis: Optional[Basis] = None,
    ) -> SandboxUsage:
        """One sandbox's usage, whether it still lives or not."""
        params = _params(interval=interval, basis=basis) | _window(from_, to)
        return SandboxUsage.read(self._ask("GET", _path(sandbox_id, "/usage"), params))

    def slices(
        self,
        sandbox_id: str,
        *,
        from_: Optional[Moment] = None,
        to: Optional[Moment] = None,
        limit: Optional[int] = None,
    ) -> Iterator[Slice]:
        """The slices of one sandbox, oldest first: all, or those with time in a window."""
        params = _params(limit=limit) | _window(from_, to)
        return self._pages(_path(sandbox_id, "/slices"), params, Slice.read)

    def tags(self, sandbox_id: str) -> Tags:
        """The tags of one sandbox."""
        return Tags.read(self._ask("GET", _path(sandbox_id, "/tags"), {}))

    def replace_tags(self, sandbox_id: str, tags: Mapping[str, str]) -> Tags:
        """Replaces all the tags of one sandbox; `{}` clears them, and the same again change nothing."""
        return Tags.read(self._ask("PUT", _path(sandbox_id, "/tags"), {}, dict(tags)))

    def tag_keys(self, *, limit: Optional[int] = None) -> Iterator[TagKey]:
        """The keys that the org's sandboxes are tagged with, in order."""
        return self._pages("/api/tags", _params(limit=limit), TagKey.read)

    def _pages(self, path: str, params: Params, read: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
        while True:
            page = self._ask("GET", path, params)
            for item in page["items"]:
                yield read(item)
            if page["nextCursor"] is None:
                return
            params = params | {"cursor": page["nextCursor"]}

    def _ask(self, method: str, path: str, params: Params, body: Optional[Params] = None) -> dict[str, Any]:
        query = f"?{urlencode(params)}" if params else ""
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["Content-Type"] = "application/json"
        request = Request(f"{self._base_url}{path}{query}", content, headers, method=method)
        try:
            with urlopen(request, timeout=self._timeout) as answer:
                return _object(answer.read(ANSWER_BYTES_MAX))
        except HTTPError as error:
            raise _problem(error.code, error.read(ANSWER_BYTES_MAX)) from None
        except (URLError, TimeoutError, ConnectionError) as error:
            raise Unreachable(f"{self._base_url} does not answer: {error}") from error


def _object(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise Unreachable("the answer is no JSON: something else than Dormouse has answered") from error
    if not isinstance(answer, dict):
        raise Unreachable("the answer is no JSON object: something else than Dormouse has answered")
    return answer


def _problem(status: int, content: bytes) -> Problem:
    problem = _object(content)
    text = {name: str(problem.get(name, "")) for name in ("reason", "title", "detail")}
    return Problem(status, Reason(text["reason"]), text["title"], text["detail"])


def _path(sandbox_id: str, rest: str = "") -> str:
    return f"/api/sandboxes/{quote(sandbox_id, safe='')}{rest}"


def _params(**params: str | int | None) -> Params:
    return {name: str(value) for name, value in params.items() if value is not None}


def _window(from_: Optional[Moment], to: Optional[Moment]) -> Params:
    ends = {"from": from_, "to": to}
    return {name: written(moment) for name, moment in ends.items() if moment is not None}
