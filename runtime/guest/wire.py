"""Frames on the stream socket between the node and an instance: one header, one JSON object, one body.

Both sides import this file (the guest inside the container, `runtime.instance` outside); it does no I/O.

A frame is HEADER (type, length of meta, length of body), then meta (UTF-8 JSON), then body (raw bytes).

    node → instance
      CONFIG   {instance_id, function_name, version, memory_limit_mb, secrets: {}, start: fork|restore|boot, epoch: n,
                result_limit: bytes, clock_offset_s: s}                                          once, first
      INVOKE   {id, kind: "json"|"text"|"pickle"|"none", deadline: epoch s, attempt, env: {}?, req: {}?}
               body: the event as it came. `req` (method, path, query, headers, remote) comes only where READY asked
    instance → node
      READY    {context: bool, asgi: bool, ms: {hooks: ms, …}}     hooks ran, privileges dropped: INVOKE may come
      RESULT   {status: int, headers: [[k, v], …], kind: "json"|"text"|"bytes"|"pickle", stream: bool}; body: all of it,
               or nothing where CHUNKs follow
      CHUNK    {}; body: one piece of a stream              END   {}: the stream is whole
      FAIL     {code, type, message, traceback}; code: HANDLER_ERROR | RESULT_NOT_SERIALISABLE | RESULT_TOO_LARGE |
               BAD_EVENT | HOOK_FAILED; body: the pickled exception where the call was a pickle and it can be pickled.
               After RESULT with stream, FAIL ends the stream.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("!BII")

CONFIG, INVOKE = 1, 2
READY, RESULT, CHUNK, END, FAIL = 16, 17, 18, 19, 20

PLAIN_RESULT = {
    kind: f'{{"status":200,"headers":[],"kind":"{kind}","stream":false}}'.encode()
    for kind in ("json", "text", "bytes", "pickle")
}
"""The meta of nearly every RESULT, by kind, made once."""

META_LIMIT = 1 << 20
"""A larger meta is a protocol error: what is large belongs into the body."""
BODY_LIMIT = 1 << 30
