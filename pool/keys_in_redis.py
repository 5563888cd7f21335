"""The name of every key in Redis, as functions: nothing else in the project spells one.

Keys of one function carry one hash tag ({fn_…}), so that a script that touches several of them stays on one shard.
Not here: what is in them (each owner's file says so).
"""

from __future__ import annotations

PREFIX = "quilt"


def functions() -> str:
    """Set of the ids of all functions."""
    return f"{PREFIX}:functions"


def names(tenant_id: str) -> str:
    """Hash of one tenant: function name → function id."""
    return f"{PREFIX}:names:{tenant_id}"


def function(function_id: str) -> str:
    """Hash: tenant_id, name, asked, current, newest, target, created_at, updated_at."""
    return f"{PREFIX}:{{{function_id}}}:function"


def version(function_id: str, number: int) -> str:
    """Hash: spec (JSON), state, error, built (JSON), incarnation, created_at, updated_at."""
    return f"{PREFIX}:{{{function_id}}}:version:{number}"


def record_order(function_id: str) -> str:
    """Sorted set: invocation id by the time it ended."""
    return f"{PREFIX}:{{{function_id}}}:record-order"


def records(function_id: str) -> str:
    """Hash: invocation id → packed record."""
    return f"{PREFIX}:{{{function_id}}}:records"


def counts(function_id: str) -> str:
    """Hash: invocations, errors, last_invoked_at."""
    return f"{PREFIX}:{{{function_id}}}:counts"


def api_keys() -> str:
    """Hash: sha256 of a key → JSON {key_id, tenant_id, name, created_at}."""
    return f"{PREFIX}:api-keys"


def incarnations() -> str:
    """Counter: the incarnation of a node process is one more than that of any before it."""
    return f"{PREFIX}:incarnations"


def leases() -> str:
    """Hash: node id → `<incarnation> <renewed at, epoch ms>`."""
    return f"{PREFIX}:leases"


def container_tenants() -> str:
    """Set of the tenants that have, or had, containers."""
    return f"{PREFIX}:container-tenants"


def containers(tenant_id: str) -> str:
    """Set of the ids of one tenant's containers."""
    return f"{PREFIX}:{{containers:{tenant_id}}}:all"


def container_names(tenant_id: str) -> str:
    """Hash of one tenant: container name → container id."""
    return f"{PREFIX}:{{containers:{tenant_id}}}:names"


def container(tenant_id: str, container_id: str) -> str:
    """Hash: name, state, incarnation, kept (JSON), created_at, updated_at."""
    return f"{PREFIX}:{{containers:{tenant_id}}}:{container_id}"


def volume_tenants() -> str:
    """Set of the ids of tenants that have, or had, volumes."""
    return f"{PREFIX}:volume-tenants"


def volume_names(tenant_id: str) -> str:
    """Hash of one tenant: volume name → volume id."""
    return f"{PREFIX}:{{volumes:{tenant_id}}}:names"


def volumes(tenant_id: str) -> str:
    """Hash of one tenant: volume id → record (JSON)."""
    return f"{PREFIX}:{{volumes:{tenant_id}}}:records"


def operation_order(tenant_id: str) -> str:
    """Sorted set: operation id by the microsecond of its beginning; no two are alike."""
    return f"{PREFIX}:{{operations:{tenant_id}}}:order"


def operation_states(tenant_id: str) -> str:
    """Hash: operation id → `<status> <incarnation>`."""
    return f"{PREFIX}:{{operations:{tenant_id}}}:states"


def operation_records(tenant_id: str) -> str:
    """Hash: operation id → JSON of quilt_fn.model.operation.OperationRecord."""
    return f"{PREFIX}:{{operations:{tenant_id}}}:records"


def operations_open(node_id: str) -> str:
    """Hash of one node: id of an operation that it has not ended → tenant id."""
    return f"{PREFIX}:operations-open:{node_id}"


def operation_cancels() -> str:
    """Set: ids of operations that another node process was asked to cancel."""
    return f"{PREFIX}:operation-cancels"


def services() -> str:
    """Hash: service id → JSON {tenant_id, container_id, name, target_port, auth_mode, token_sha256, created_at, …}."""
    return f"{PREFIX}:services"


def replay_order(tenant_id: str) -> str:
    """Sorted set: sha256 of scope and Idempotency-Key by the millisecond that it was first seen."""
    return f"{PREFIX}:{{replays:{tenant_id}}}:order"


def replays(tenant_id: str) -> str:
    """Hash: sha256 of scope and Idempotency-Key → `claimed <node id> <incarnation>`, or the answer (JSON)."""
    return f"{PREFIX}:{{replays:{tenant_id}}}:answers"
