"""The routes of functions: their lives, their code, their invocations, their pools.

Not here: the handlers (`gateway.functions`, `gateway.invocations`, `gateway.bundles`), nor `/fn/` (`gateway.invoke`).
"""

from __future__ import annotations

from gateway import bundles, examples, functions, health, invocations, pages
from gateway.functions import NDJSON
from gateway.route import FULL, Concern, Query, Route
from quilt_fn.model.function import FunctionCreate, FunctionRecord, FunctionUpdate, PoolRecord
from quilt_fn.model.invocation import InvocationRecord, InvokeRequest
from quilt_fn.states import InvocationStatus

ALL, ONE = "/api/functions", "/api/functions/{function_id}"
CONCERN = Concern(
    "functions",
    "Python code that answers HTTP at /fn/<name>, on instances that are kept warm.",
    (
        Route(
            "POST", "/api/bundles", bundles.upload, "201 `{bundle_id, size_bytes}` for a raw tar.gz; known content 200",
            body="application/gzip", answers={"bundle_id": "0" * 64, "size_bytes": 1024}, status=201, also=(200,),
            fills=True,
        ),
        Route("POST", ALL, functions.create, "201 record", body=FunctionCreate, answers=FunctionRecord, status=201,
              fills=True),
        Route("GET", ALL, functions.list_, "`{functions, next_cursor}`, newest first",
              answers=pages.example("functions"), query=pages.QUERY),
        Route("GET", ALL + "/by-name/{name}", functions.by_name, "record", answers=FunctionRecord),
        Route("GET", ALL + "/pool/stats", functions.pool_stats, "`{pools: […]}`, one for each function",
              answers={"pools": []}),
        Route("POST", ALL + "/invoke/{name}", invocations.invoke_by_name, "invocation record, also of a failure",
              body=InvokeRequest, answers=InvocationRecord),
        Route("GET", ONE, functions.get, "record", answers=FunctionRecord),
        Route("PUT", ONE, functions.update, "record; makes a new version", body=FunctionUpdate, answers=FunctionRecord,
              fills=True),
        Route("DELETE", ONE, functions.delete, "204; running invocations get their time limit", status=204),
        Route(
            "POST", ONE + "/deploy", functions.deploy,
            "record when capacity is ready; with `Accept: application/x-ndjson` progress lines, then `done` or `error`",
            answers=FunctionRecord, fills=True,
        ),
        Route("POST", ONE + "/pause", functions.pause, "record; drains, scales to zero, keeps the snapshot",
              answers=FunctionRecord),
        Route("POST", ONE + "/resume", functions.resume, "record when capacity is ready", answers=FunctionRecord),
        Route("POST", ONE + "/invoke", invocations.invoke, "invocation record, also of a failure",
              body=InvokeRequest, answers=InvocationRecord),
        Route(
            "GET", ONE + "/invocations", invocations.list_, "`{invocations, next_cursor}`, newest first",
            answers=pages.example("invocations"),
            query=(Query("status", "only those in this status: " + ", ".join(InvocationStatus)), *pages.QUERY),
        ),
        Route("GET", ONE + "/invocations/{invocation_id}", invocations.get, "invocation record",
              answers=InvocationRecord),
        Route(
            "GET", ONE + "/logs", invocations.logs,
            "NDJSON lines `{t, stream, invocation_id, instance_id, text}`, oldest first", answers=NDJSON, token=True,
            query=(
                Query("limit", f"the last so many; {pages.LIST_MAX} where it is absent", "integer"),
                Query("follow", "go on until you leave", "boolean"),
                Query("invocation_id", "only what this one wrote"),
            ),
        ),
        Route("GET", ONE + "/pool", functions.pool, "the function's pool", answers=PoolRecord),
        Route(
            "POST", ONE + "/template/drop", functions.drop_template,
            "`{dropped}`; the next start is a restore, with `snapshot` a boot", answers={"dropped": True},
            query=(Query("snapshot", "true drops the snapshot too", "boolean"),),
        ),
    ),
    health=health.all_of(health.redis, health.spawner, health.disk),
    examples=examples.FUNCTIONS,
    rules=(
        "A function serves once it is deployed; its newest version is current when the deploy has answered.",
        "A deploy that fails leaves the version before it serving.",
        "A failing invocation is a record with its `error`, and still 200; at /fn/<name> it is an error.",
        "While Redis is away, what is deployed goes on being served; nothing can be changed.",
        FULL,
    ),
    states=("VERSION", "INSTANCE", "INVOCATION"),
)  # fmt: skip
