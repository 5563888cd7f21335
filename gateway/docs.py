"""Writes docs/reference/http-api.md and errors.md from the routes and the exception tree: `python -m gateway.docs`.

A unit test compares what is written with what this makes, so the pages cannot drift. Not here: how-to pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import quilt_fn.errors
from gateway.app import ROUTES
from gateway.route import Route
from quilt_fn.errors import EXIT_CODE, HTTP_STATUS, QuiltError

HTTP_API = """\
# HTTP API

*Written by `python -m gateway.docs`: change the code, not this page.*

## Everywhere

- The key goes into `X-Api-Key`, or `Authorization: Bearer …`. 401 without one, 403 with a wrong one; another tenant's
  things are 404. Routes marked *token* also take `?token=`, for clients that cannot set headers; those marked
  *loopback* ask programs on this machine for no key where `QUILT_PUBLIC_METRICS` is set.
- `/openapi.json` is this page for programs, and `/docs` shows it. Of each concern, `/api/<concern>/help`, `/examples`
  and `/health` tell its rules, requests that work as they stand, and whether it can work now.
- Every response carries `X-Request-Id`: the caller's own where it is at most 128 letters, digits and `._:/+=@-`.
- Every error has one body, listed in [errors](errors.md). 429 and 503 carry `Retry-After`; 429
  `QUOTA_EXCEEDED` only where what is too many ends by itself (commands, operations, archives).
- `Idempotency-Key` (1 to 255 printable ASCII characters) on every route that answers 201 or 202: a replay within 24
  hours, also after a restart, is answered as the first was, with `Idempotency-Replayed: true`; while the first is at
  work the second waits for it; the same key with another body is 422. Failures are not kept, nor answers of more than
  256 KiB; of a tenant the newest 10,000 are. What a node that died had not answered is done again. Answers
  that hold a secret (a new key, a terminal session, a published service) are kept in memory alone: after a restart
  their replay is 409. A replay on `/api/elasticity/control/…` is always 409, with the first `operation_id` in
  `details`. While Redis is away a request with the header is 503, and nothing is done.
- Where `QUILT_RATE_LIMIT_PER_S` is set, each API key may make so many requests a second (after
  `QUILT_RATE_LIMIT_BURST` at once), `/fn/` included: above that 429 `RATE_LIMITED` with `Retry-After`.
- Lists take `limit` (at most 1,000; 100 where it is absent) and `cursor`, newest first; images and the folders of a
  volume go by name.
- Bodies are at most `QUILT_MAX_BODY_MB`, bundles included. Files and archives of volumes and containers, what is
  streamed into a command, and what goes to a published service have no such limit; they pass through in pieces.
- What is no HTTP at all, or has a request line or a header over 8,190 bytes, comes to no route: it is answered 400 as
  text, without a request id.

## Routes

| method | path | answer |
|---|---|---|
{routes}

`ANY /fn/<name>` and `/fn/<name>/<path>` are the functions themselves:

## The HTTP endpoint of a function

What the handler gets, by the request's body:

| body | event |
|---|---|
| none | the query as a dict; of a name that comes twice the last value |
| `application/json`, `…+json` | the parsed value; 400 where it is not JSON, before anything starts |
| `text/*` | the text, decoded by its charset; 400 where it is not |
| anything else | the parsed value where it is JSON, the text where it is UTF-8, else base64 (below) |
| `application/vnd.quilt.call` | a call of the SDK; needs a key of the function's own tenant, also where it is public |

Base64 comes as Lambda's `{{"isBase64Encoded": true, "body": text, "content_type": text}}`.

A handler with a context, or a whole ASGI or WSGI app, finds the body unchanged in its request, with the path below the
function and all headers but the platform's own (`X-Api-Key`, `X-Quilt-*`, an `Authorization` that holds a key of ours).
Other bearer tokens belong to a public function's own users and are passed on.

`X-Quilt-Timeout-S` lowers the function's time limit for one request. A client that leaves does not cancel its
invocation; it ends a stream, and the instance is free again.

What comes back: JSON, text (`text/plain; charset=utf-8`) or octets; headers and status of the handler's own win, but
`X-Quilt-*`, `X-Request-Id`, `Server-Timing`, `Content-Length` and hop-by-hop headers are the platform's. A header with
a line break, or a status outside of 200 to 599, is a `RESULT_NOT_SERIALISABLE`.

A tuple is `(body, status)` or `(body, status, headers)` where its second item is an int from 200 to 599. With another
int after text, octets, a dict or a generator it is a mistyped status and `RESULT_NOT_SERIALISABLE`; any other tuple is
a JSON list.

A generator is sent chunk by chunk: text and octets as they are, other values each as a line of JSON. Its first chunk
says which type the answer has, `application/x-ndjson` for a value. Where it fails before that the answer is an error,
after that the connection is cut before the end, and why is in the invocation's record.

| header | |
|---|---|
| `X-Quilt-Invocation-Id` | names the invocation's record |
| `X-Quilt-Start` | `warm`, `fork`, `restore` or `boot` |
| `Server-Timing` | `queue`, `start` and `run` in milliseconds (not on streams) |

A failure is an error body; `details` has `type`, `message`, `invocation_id`, at 504 `limit` (`timeout_seconds`,
`X-Quilt-Timeout-S` or `queue`), and with a key of the function's tenant `traceback`. A call of the SDK that raised is
answered with the pickled exception (`application/vnd.quilt.exception`), the error's code in `X-Quilt-Error-Code` and
the error body, shortened to fit, as base64 in `X-Quilt-Error`.

A pickled call may say in `X-Quilt-Python` which Python pickled it (`3.13`; the SDK does): where the function runs on
another minor version it is refused with `PYTHON_MISMATCH` before anything is run.

## Lines of a deploy

With `Accept: application/x-ndjson` a deploy answers line by line: `{{"event": "progress", stage, text, done, ms}}`, and
at the end `{{"event": "done", "function": record}}` or `{{"event": "error", …the error body}}`. A client that
leaves does not stop it.
"""

ERRORS = """\
# Errors

*Written by `python -m gateway.docs`: change the code, not this page.*

Every error that Quilt answers is a JSON object with these six fields:

    {{"error": text, "error_code": "FUNCTION_NOT_FOUND", "request_id": text, "details": object | null,
     "retry_after": seconds | null, "hint": text | null}}

A 422 about fields names each in `details.fields`: `{{"field", "expected", "got"}}`; values of `secrets` and
`environment` are never repeated. The SDK raises the exception of the same name again; the CLI exits with the code in
the last column.

| error_code | exception | HTTP | retry | CLI |
|---|---|---|---|---|
{errors}
"""


_VARIABLE = re.compile(r"\{(\w+)\}")


def http_api() -> str:
    return HTTP_API.format(routes="\n".join(_route(route) for route in ROUTES))


def _route(route: Route) -> str:
    marks = [f"*{mark}*" for mark in ("public", "token", "loopback") if getattr(route, mark)]
    path = _VARIABLE.sub(r"<\1>", route.shown_path)
    return f"| {route.method} | `{path}` | {' '.join([*marks, route.says])} |"


def errors() -> str:
    return ERRORS.format(errors="\n".join(_errors()))


def _errors() -> Iterator[str]:
    # Not all_errors(): a subclass that some room keeps to itself shows up there once it is imported.
    tree = [cls for cls in vars(quilt_fn.errors).values() if isinstance(cls, type) and issubclass(cls, QuiltError)]
    public = {cls.error_code: cls for cls in tree if cls is not QuiltError}
    for code, cls in sorted(public.items()):
        yield (
            f"| `{code}` | `{cls.__name__}` | {_nearest(cls, HTTP_STATUS)} | {'yes' if cls.retryable else 'no'} "
            f"| {_nearest(cls, EXIT_CODE)} |"
        )


def _nearest(cls: type[QuiltError], table: dict[type[QuiltError], int]) -> int:
    return next(table[ancestor] for ancestor in cls.__mro__ if ancestor in table)


PAGES = {"http-api.md": http_api, "errors.md": errors}


def main() -> None:
    folder = Path(__file__).parent.parent / "docs" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (folder / name).write_text(make())


if __name__ == "__main__":
    main()
