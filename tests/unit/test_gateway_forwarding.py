"""What passes between a client and a published service, and what does not."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.forwarding import from_container, is_token, query_without_token, to_container

PREFIX = "/linx/lnx_1"
TOKEN, KEY = "lnt_" + "a" * 32, "quilt_sk_" + "b" * 32


def sent(**headers: str) -> CIMultiDict[str]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return to_container(make_mocked_request("GET", "/linx/lnx_1/a", headers={"Host": "q.example", **given}), PREFIX)


@pytest.mark.parametrize(
    "header", [{"X_Api_Key": KEY}, {"X_Quilt_Token": TOKEN}, {"Authorization": f"Bearer {KEY}"},
               {"Authorization": f"bearer  {TOKEN}"}, {"Cookie": f"quilt_linx_lnx_1={TOKEN}"}, {"X_Tenant_Id": "t1"}]
)  # fmt: skip
def test_credentials_of_the_platform_do_not_pass(header: dict[str, str]) -> None:
    name = next(iter(header)).replace("_", "-")
    assert name not in sent(**header)


def test_what_is_the_services_own_passes() -> None:
    out = sent(Authorization="Basic dTpw", Cookie=f"a=1; quilt_linx_lnx_1={TOKEN}; b=2", X_Custom="v", Host="q.example")
    assert out["Authorization"] == "Basic dTpw" and out["Cookie"] == "a=1; b=2" and out["X-Custom"] == "v"
    assert out["Host"] == "q.example"


def test_headers_of_one_connection_do_not_pass() -> None:
    out = sent(Connection="keep-alive, X-Private", X_Private="1", Keep_Alive="5", TE="trailers", Upgrade="h2c",
               Proxy_Authorization="x", Expect="100-continue")  # fmt: skip
    assert not {n.lower() for n in out} & {
        "connection", "x-private", "keep-alive", "te", "upgrade", "proxy-authorization", "expect",
    }  # fmt: skip


def test_forwarded_says_what_this_side_saw() -> None:
    out = sent(X_Forwarded_For="6.6.6.6", X_Forwarded_User="root", Forwarded="for=6.6.6.6")
    assert out.getall("X-Forwarded-For") != ["6.6.6.6"] and "X-Forwarded-User" not in out and "Forwarded" not in out
    assert out["X-Forwarded-Host"] == "q.example" and out["X-Forwarded-Prefix"] == PREFIX
    assert out["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [(f"a=1&token={TOKEN}&b=%20", "a=1&b=%20"), (f"token={KEY}", ""), ("token=mine&x", "token=mine&x"), ("", ""),
     (f"%74oken={TOKEN}&c", "c"), (f"other={TOKEN}", f"other={TOKEN}")],
)  # fmt: skip
def test_a_token_in_the_query_goes_no_further(raw: str, kept: str) -> None:
    assert query_without_token(raw) == kept


def answered(*headers: tuple[str, str]) -> CIMultiDict[str]:
    return from_container(CIMultiDictProxy(CIMultiDict(headers)), PREFIX)


def test_cookies_and_redirects_stay_below_the_prefix() -> None:
    out = answered(
        ("Set-Cookie", "a=1; Path=/; Domain=example.org; HttpOnly"), ("Set-Cookie", "b=2"),
        ("Set-Cookie", "c=3; path=/in"), ("Set-Cookie", "quilt_linx_lnx_2=stolen; Path=/"), ("Location", "/login?x=1"),
    )  # fmt: skip
    assert out.getall("Set-Cookie") == [
        f"a=1; HttpOnly; Path={PREFIX}/", f"b=2; Path={PREFIX}/", f"c=3; Path={PREFIX}/in",
    ]  # fmt: skip
    assert out["Location"] == f"{PREFIX}/login?x=1"
    for elsewhere in ("//other.example/", "https://other.example/", "relative"):
        assert answered(("Location", elsewhere))["Location"] == elsewhere


def test_a_page_gets_no_power_over_the_rest_of_the_origin() -> None:
    out = answered(("Service-Worker-Allowed", "/"), ("Clear-Site-Data", '"*"'), ("Connection", "close"), ("ETag", "1"))
    assert dict(out) == {"ETag": "1"}


def test_the_form_of_a_token() -> None:
    assert is_token(TOKEN) and not is_token(TOKEN + "a") and not is_token("lnt_") and not is_token("a; Path=/")
