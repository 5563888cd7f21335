"""Answers to questions of DNS from what this platform knows. No I/O.

`NAME` and `NAME.quilt.internal` are the asker's tenant's containers, and so is the reverse of an address in the
subnet. Nothing that belongs to another tenant is told, nor that it is there.
"""

from __future__ import annotations

import ipaddress

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from runtime.network.api import Asker, Directory
from runtime.spawner import sandbox

DOMAIN = sandbox.DOMAIN
TTL_S = 1
"""An address is a container's for life, but a name may move to another container at any time."""
_SUFFIX = dns.name.from_text(DOMAIN)
_REVERSE = dns.name.from_text("in-addr.arpa.")


class Zone:
    def __init__(self, directory: Directory, subnet: ipaddress.IPv4Network) -> None:
        self._directory = directory
        self._subnet = subnet

    def answer(self, query: dns.message.Message, asker: Asker) -> dns.message.Message | None:
        """The response; None where the question is not ours, and may be asked of others."""
        if len(query.question) != 1 or query.opcode() != 0:
            return failed(query, dns.rcode.NOTIMP)
        question = query.question[0]
        name = question.name
        if question.rdclass != dns.rdataclass.IN:
            return failed(query, dns.rcode.REFUSED)
        if name.is_subdomain(_SUFFIX):
            return self._forward(query, name, name.relativize(_SUFFIX), asker)
        if len(name.labels) == 2:  # one, and the root
            return self._forward(query, name, dns.name.Name(name.labels[:1]), asker)
        if name.is_subdomain(_REVERSE):
            return self._reverse(query, name, asker)
        return None

    def _forward(
        self, query: dns.message.Message, name: dns.name.Name, label: dns.name.Name, asker: Asker
    ) -> dns.message.Message:
        wanted = label.to_text().lower()
        if wanted == "@":
            return _found(query, name, None, None)  # the domain itself: it is there, and has no address
        address = self._directory.address_of(asker.tenant_id, wanted)
        if address is None:
            return failed(query, dns.rcode.NXDOMAIN)
        return _found(query, name, dns.rdatatype.A, address)

    def _reverse(self, query: dns.message.Message, name: dns.name.Name, asker: Asker) -> dns.message.Message | None:
        try:
            address = dns.reversename.to_address(name)
            if ipaddress.IPv4Address(address) not in self._subnet:
                return None
        except (dns.exception.DNSException, ValueError):
            return None
        found = self._directory.name_at(asker.tenant_id, address)
        if found is None:
            return failed(query, dns.rcode.NXDOMAIN)
        return _found(query, name, dns.rdatatype.PTR, f"{found}.{DOMAIN}.")


def failed(query: dns.message.Message, code: dns.rcode.Rcode) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(code)
    return response


def _found(
    query: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType | None, text: str | None
) -> dns.message.Message:
    """With the record where it was asked for; a name that is there, but has no such record, is no error."""
    response = dns.message.make_response(query, recursion_available=True)
    response.flags |= dns.flags.AA
    if kind is not None and text is not None and query.question[0].rdtype in (kind, dns.rdatatype.ANY):
        response.answer.append(dns.rrset.from_text(name, TTL_S, dns.rdataclass.IN, kind, text))
    return response
