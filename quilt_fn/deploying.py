"""Bringing code to a platform: pack, upload, create or update, deploy, and whether any of that is needed.

Not here: what a function's options mean (`options`), and which files it needs (`sources`). Used by `App` and the CLI.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quilt_fn import errors
from quilt_fn.changes import changes
from quilt_fn.client import Client, DeployStep

if TYPE_CHECKING:
    from quilt_fn.bundle import Bundle
    from quilt_fn.model.function import FunctionCreate, FunctionRecord

DIGEST_LABEL = "quilt-sdk-digest"
CHANGES = "changes"
"""The stage of the steps that say what is other than before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be deployed: the packed code, and the function's fields with `bundle_id` and `name`."""

    bundle: Bundle
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.fields["name"])

    def spec(self) -> FunctionCreate:
        """The fields, checked. Raises InvalidValue naming each one that is wrong."""
        from pydantic import ValidationError

        from quilt_fn.model.function import FunctionCreate

        try:
            return FunctionCreate.model_validate({**self.fields, "bundle_id": self.bundle.bundle_id})
        except ValidationError as error:
            raise invalid(error) from None


def invalid(error: Any) -> errors.InvalidValue:
    """Pydantic's complaints as one InvalidValue. Values are not repeated: they may be secrets."""
    fields = [
        {"field": ".".join(map(str, item["loc"])), "expected": item["msg"]}
        for item in error.errors(include_url=False, include_input=False)
    ]
    return errors.InvalidValue(
        "; ".join(f"{item['field']}: {item['expected']}" for item in fields), details={"fields": fields}
    )


async def deploy(client: Client, plan: Plan) -> AsyncGenerator[DeployStep | FunctionRecord, None]:
    """Upload, create (or make a new version), build: the steps, and at the end the record of the active function. The
    first steps say which options are others than before.

    Idempotent: broken off, it can be run again. Raises InvalidValue, BuildFailed, PythonMismatch, Unavailable.
    """
    spec = _labelled(client, plan)
    existing = await _find(client, spec.name)
    for change in changes(existing, spec) if existing is not None else ():
        yield DeployStep(CHANGES, change, done=True)
    begun = time.perf_counter()
    yield DeployStep("upload", f"{plan.bundle.size_bytes / 1e3:.1f} kB, {len(plan.bundle.files)} files")
    await client.put_bundle.aio(plan.bundle.data)
    yield DeployStep("upload", "uploaded", done=True, ms=(time.perf_counter() - begun) * 1e3)
    function_id = await _create_or_update(client, spec, existing)
    async for step in client.deploy_steps.aio(function_id):
        yield step


async def is_deployed(client: Client, plan: Plan) -> FunctionRecord | None:
    """The function's record where exactly this plan is what the platform serves; None where it has to be deployed."""
    record = await _find(client, plan.name)
    if record is None:
        return None
    same = record.labels.get(DIGEST_LABEL) == digest(client, plan) and record.version == record.current_version
    return record if same and record.state == "active" else None


def digest(client: Client, plan: Plan) -> str:
    """Names a plan by all of its fields. Keyed, because secrets are among them and the label can be read."""
    text = json.dumps({**plan.fields, "bundle_id": plan.bundle.bundle_id}, sort_keys=True, default=str)
    return hmac.new((client.api_key or "").encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def _labelled(client: Client, plan: Plan) -> FunctionCreate:
    spec = plan.spec()
    return spec.model_copy(update={"labels": {**spec.labels, DIGEST_LABEL: digest(client, plan)}})


async def _find(client: Client, name: str) -> FunctionRecord | None:
    try:
        return await client.function_by_name.aio(name)
    except errors.FunctionNotFound:
        return None


async def _create_or_update(client: Client, spec: FunctionCreate, record: FunctionRecord | None) -> str:
    from quilt_fn.model.function import FunctionUpdate

    if record is None:
        try:
            return str((await client.create_function.aio(spec))["function_id"])
        except errors.NameTaken:  # somebody else created it just now
            record = await client.function_by_name.aio(spec.name)
    # All fields, also those at their defaults: what an earlier version had set must not stay.
    changes = {name: value for name, value in spec.model_dump().items() if name in FunctionUpdate.model_fields}
    await client.update_function.aio(record.id, FunctionUpdate.model_validate(changes))
    return record.id
