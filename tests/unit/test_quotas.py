"""Quotas of a tenant: what is refused, with which words, and what is just being made counted too."""

from __future__ import annotations

import pytest

from pool.quotas import Quotas, TenantQuotas
from quilt_fn.errors import QuotaExceeded
from quilt_fn.settings import Settings


def tenants(there: dict[str, int], sizes: list[int | None], **quotas: int) -> TenantQuotas:
    mine = {"t1": there}
    return TenantQuotas(Quotas(**quotas), lambda tenant: mine.get(tenant, {}), lambda _tenant: sizes)


def test_no_quota_is_no_limit() -> None:
    assert Quotas.of(Settings()) == Quotas()
    quotas = tenants({str(n): 1 << 20 for n in range(1000)}, [None] * 1000)
    with quotas.container("t1", 1 << 20, None), quotas.volume("t1", None):
        pass


def test_containers_are_counted_with_those_on_their_way() -> None:
    there = {"ctr_1": 100}
    quotas = tenants(there, [], containers=2)
    with quotas.container("t1", 100, None):
        with pytest.raises(QuotaExceeded, match="has 2, and asked for 1 more") as raised:
            quotas.container("t1", 16, None).__enter__()
        assert raised.value.details == {"quota": "containers", "limit": 2, "used": 2, "asked": 1}
        assert raised.value.retry_after is None, "waiting does not free any"
        with quotas.container("t2", 16, None), quotas.container("t1", 200, "ctr_1"):
            pass
    with quotas.container("t1", 100, None):
        pass


def test_memory_is_the_sum_of_limits_and_a_resize_counts_what_it_adds() -> None:
    quotas = tenants({"ctr_1": 100, "ctr_2": 200}, [], container_memory_mb=512)
    with quotas.container("t1", 212, None):
        with pytest.raises(QuotaExceeded) as raised:
            quotas.container("t1", 101, "ctr_1").__enter__()
        assert raised.value.details == {"quota": "container_memory_mb", "limit": 512, "used": 512, "asked": 1}
        with quotas.container("t1", 50, "ctr_1"):
            pass
    with quotas.container("t1", 312, "ctr_1"):
        pass


def test_volumes_and_their_sizes() -> None:
    quotas = tenants({}, [60, None], volumes=3, volume_mb=100)
    with quotas.volume("t1", 40), pytest.raises(QuotaExceeded, match="may have 3 volumes: it has 3"):
        quotas.volume("t1", 1).__enter__()
    with pytest.raises(QuotaExceeded) as raised:
        quotas.volume("t1", 41).__enter__()
    assert raised.value.details == {"quota": "volume_mb", "limit": 100, "used": 60, "asked": 41}
    with pytest.raises(QuotaExceeded, match="needs a `size_limit_mb`"):
        quotas.volume("t1", None).__enter__()
