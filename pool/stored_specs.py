"""A version's spec as it lies in Redis: JSON, with its secrets sealed beside it.

Not here: the seal (`pool.sealing`), nor when it is read and written (`pool.registry`).
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from pool.sealing import SealBroken, Sealer
from quilt_fn.model.function import FunctionSpec

SEALED = "sealed_secrets"
"""The field that the secrets lie in; `secrets` is empty then."""


@dataclass(frozen=True, slots=True)
class Found:
    """`plain`: its secrets lay there in plain text, as they did before there was a seal. `broken`: why they can't be
    opened; the spec has none then.
    """

    spec: FunctionSpec
    plain: bool = False
    broken: str = ""


class StoredSpecs:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def pack(self, function_id: str, number: int, spec: FunctionSpec) -> bytes:
        """Raises OSError where the key of the seal can be neither read nor made."""
        fields = spec.model_dump(mode="json")
        if spec.secrets:
            fields["secrets"] = {}
            fields[SEALED] = await self._sealer.seal(spec.secrets, f"{function_id}/{number}")
        return orjson.dumps(fields)

    async def unpack(self, function_id: str, number: int, packed: bytes) -> Found:
        fields = orjson.loads(packed)
        sealed = fields.pop(SEALED, None)
        if sealed is None:
            spec = FunctionSpec.model_validate(fields)
            return Found(spec, plain=bool(spec.secrets))
        try:
            fields["secrets"] = await self._sealer.open(sealed, f"{function_id}/{number}")
        except SealBroken as error:
            return Found(FunctionSpec.model_validate(fields), broken=str(error))
        return Found(FunctionSpec.model_validate(fields))
