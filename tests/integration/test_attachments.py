"""The containers' network by itself, in a network namespace of the test's own: who reaches whom, and what is left."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from runtime.spawner.attachments import Attachments
from tests.integration.own_network import METADATA, OUTSIDE, answering, config, inside, ip, own_machine, seen_at

ONE, TWO, OTHER = "ctr_" + "1" * 20, "ctr_" + "2" * 20, "ctr_" + "3" * 20
UPLINK = "203.0.113.2"
UNREACHABLE = "No route to host"


def prepared(folder: Path, platform: str = "0123456789ab", **kept: set[str]) -> Attachments:
    made = Attachments(config(folder, platform))
    made.prepare(kept.get("running", set()), kept.get("there", set()))
    assert made.reason is None and made.egress_reason is None, (made.reason, made.egress_reason)
    return made


def links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout


def routes() -> str:
    return subprocess.run(["ip", "route"], check=True, capture_output=True, text=True).stdout


def test_a_tenants_containers_reach_each_other_and_nobody_elses(tmp_path: Path) -> None:
    def work() -> None:
        nets = prepared(tmp_path)
        one, first = nets.attach(ONE, "acme")
        two, second = nets.attach(TWO, "acme")
        other, third = nets.attach(OTHER, "rival")
        assert nets.bridge == "quilt0" and first.startswith("10.42.") and len({first, second, third}) == 3
        for fd, address in ((one, first), (two, second), (other, third)):
            answering(fd, address, 80)
        assert seen_at(one, second) == first
        assert seen_at(two, first) == second
        assert seen_at(one, third) == seen_at(other, first) == UNREACHABLE
        assert seen_at(one, "10.42.200.200") == UNREACHABLE, "an address that nobody has looks like another tenant's"
        assert seen_at(None, first) == nets.gateway, "this machine reaches it, from the gateway's address"

    own_machine(tmp_path, work)


def test_the_world_is_reached_by_nat_but_not_this_machine_nor_its_metadata(tmp_path: Path) -> None:
    def work() -> None:
        nets = prepared(tmp_path)
        one, _ = nets.attach(ONE, "acme")
        for address in ("0.0.0.0",):
            answering(None, address, 8080)
        assert seen_at(one, OUTSIDE) == UPLINK
        assert seen_at(None, METADATA) == UPLINK, "this machine itself reaches it"
        assert seen_at(one, METADATA) == "Connection refused"
        assert seen_at(None, UPLINK, 8080) == UPLINK
        assert seen_at(one, UPLINK, 8080) == seen_at(one, nets.gateway, 8080) == "TimeoutError"

    own_machine(tmp_path, work)


def test_egress_is_switched_off_at_once_and_stays_off(tmp_path: Path) -> None:
    def work() -> None:
        nets = prepared(tmp_path)
        one, _ = nets.attach(ONE, "acme")
        two, second = nets.attach(TWO, "acme")
        answering(two, second, 80)
        nets.set_egress(ONE, "acme", False)
        assert seen_at(one, OUTSIDE) == UNREACHABLE
        assert seen_at(one, second) != UNREACHABLE, "its tenant's containers are still reached"
        assert seen_at(two, OUTSIDE) == UPLINK
        os.close(one)
        nets.release(ONE)
        again, _ = nets.attach(ONE, "acme")
        assert seen_at(again, OUTSIDE) == UNREACHABLE
        nets.set_egress(ONE, "acme", True)
        assert seen_at(again, OUTSIDE) == UPLINK

    own_machine(tmp_path, work)


def test_a_source_that_is_not_its_own_is_dropped(tmp_path: Path) -> None:
    """As root of the namespace, which nothing in a container is; of the same tenant, so that no other rule stops it."""

    def work() -> None:
        nets = prepared(tmp_path)
        one, first = nets.attach(ONE, "acme")
        two, second = nets.attach(TWO, "acme")
        forger, _ = nets.attach(OTHER, "acme")
        catcher = inside(two, lambda: bound(second))
        assert isinstance(catcher, socket.socket)
        for source in (first, "10.42.77.77", "203.0.113.9", OUTSIDE):
            inside(forger, lambda s=source: ip(f"addr add {s}/32 dev eth0"))  # type: ignore[misc]
            inside(forger, lambda s=source: shout(s, second))  # type: ignore[misc]
        inside(one, lambda: shout(None, second))
        catcher.settimeout(2)
        heard, peer = catcher.recvfrom(100)
        assert heard == b"own" and peer[0] == first

    def bound(address: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 9))
        return sock

    def shout(source: str | None, target: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            if source is not None:
                sock.bind((source, 0))
            sock.sendto(b"own" if source is None else b"forged", (target, 9))

    own_machine(tmp_path, work)


def test_addresses_last_and_nothing_of_the_link_does(tmp_path: Path) -> None:
    def work() -> None:
        nets = prepared(tmp_path)
        before, quiet = links(), routes()
        one, first = nets.attach(ONE, "acme")
        os.close(one)
        nets.release(ONE)
        nets.release(ONE)
        assert links() == before and routes() == quiet
        two, second = nets.attach(TWO, "acme")
        again, same = nets.attach(ONE, "acme")
        assert same == first != second
        for fd, ctr in ((two, TWO), (again, ONE)):
            os.close(fd)
            nets.forget(ctr)
            nets.forget(ctr)
        assert links() == before and routes() == quiet
        assert nets.of(ONE) is None and not list((tmp_path / "state/network/numbers").iterdir())
        nets.teardown()
        assert "quilt" not in ruleset() + routes() and not {n for n in links() if n.startswith("q")}

    own_machine(tmp_path, work)


def test_a_number_that_was_claimed_by_one_who_was_killed_is_given_up(tmp_path: Path) -> None:
    """Between the claim and the record of it; by the next start, by the end of the container, by the next spawner."""

    def work() -> None:
        nets = prepared(tmp_path)
        state = tmp_path / "state/network"

        def numbers() -> list[str]:
            return sorted(path.read_text() for path in (state / "numbers").iterdir())

        nets._number(ONE)
        assert numbers() == [ONE]
        one, first = nets.attach(ONE, "acme")
        os.close(one)
        assert numbers() == [ONE] and nets.address(nets.of(ONE)) == first  # type: ignore[arg-type]
        nets._number(TWO)
        nets.forget(TWO)
        assert numbers() == [ONE]
        nets._number(TWO)
        os.link(state / "numbers" / str(nets.of(ONE).number), state / f".claim.{ONE}")  # type: ignore[union-attr]
        after = prepared(tmp_path, there={ONE, TWO})
        assert numbers() == [ONE] and after.address(after.of(ONE)) == first  # type: ignore[arg-type]
        after.forget(ONE)
        assert not numbers() and not list(state.glob(".claim*"))
        after.teardown()

    own_machine(tmp_path, work)


def test_a_platform_that_starts_again_has_its_place_and_its_addresses(tmp_path: Path) -> None:
    def work() -> None:
        nets = prepared(tmp_path)
        one, first = nets.attach(ONE, "acme")
        nets.set_egress(ONE, "acme", False)
        os.close(one)
        nets.teardown()
        after = prepared(tmp_path, there={ONE})
        assert (after.bridge, after.subnet) == (nets.bridge, nets.subnet)
        again, same = after.attach(ONE, "acme")
        assert same == first and seen_at(again, OUTSIDE) == UNREACHABLE
        after.teardown()
        ip("link add quilt0 type bridge\naddr add 10.42.9.9/16 dev quilt0\nlink set quilt0 up\n")  # somebody else's now
        moved = prepared(tmp_path, there={ONE})
        _, elsewhere = moved.attach(ONE, "acme")
        assert elsewhere.split(".")[1] == "44" and elsewhere.split(".")[2:] == first.split(".")[2:]

    own_machine(tmp_path, work)


def test_a_spawner_that_was_killed_leaves_its_containers_connected(tmp_path: Path) -> None:
    def work() -> None:
        killed = prepared(tmp_path)
        killed.refill()
        one, first = killed.attach(ONE, "acme")
        two, second = killed.attach(TWO, "acme")
        killed.attach(OTHER, "acme")
        (tmp_path / "state/network/numbers/9").write_text("ctr_of_an_attach_that_was_killed")
        for path in killed.folder.iterdir():
            subprocess.run(["umount", str(path)], check=True)
            path.unlink()  # they go with the mount namespace of the one that was killed
        answering(two, second, 80)
        after = prepared(tmp_path, running={ONE, TWO}, there={ONE, TWO})
        assert seen_at(one, second) == first and seen_at(one, OUTSIDE) == UPLINK
        assert after.of(OTHER) is None
        assert {n for n in links() if n.startswith("qn")} == {after.of(ONE).link, after.of(TWO).link}  # type: ignore[union-attr]
        assert len(list((tmp_path / "state/network/numbers").iterdir())) == 2

    own_machine(tmp_path, work)


def test_networks_that_are_there_are_left_alone(tmp_path: Path) -> None:
    def work() -> None:
        ip("link add quilt0 type bridge\nlink add theirs type bridge\naddr add 10.42.7.1/24 dev theirs\n"
           "link set theirs up\nroute add 10.44.0.0/14 via 203.0.113.1\n")  # fmt: skip
        nets = prepared(tmp_path)
        assert str(nets.subnet) == "10.48.0.0/16" and nets.bridge == "quilt6"
        one, _ = nets.attach(ONE, "acme")
        assert seen_at(one, OUTSIDE) == UPLINK
        nets.teardown()
        assert {"quilt0", "theirs"} <= links()

    own_machine(tmp_path, work)


def test_two_platforms_side_by_side_are_apart(tmp_path: Path) -> None:
    def work() -> None:
        nets = prepared(tmp_path)
        (tmp_path / "2/state").mkdir(parents=True)
        beside = prepared(tmp_path / "2", "ba9876543210")
        one, first = nets.attach(ONE, "acme")
        two, second = beside.attach(TWO, "acme")
        assert nets.subnet != beside.subnet
        answering(one, first, 80)
        answering(two, second, 80)
        assert seen_at(one, second) == seen_at(two, first) == "TimeoutError"
        assert seen_at(one, OUTSIDE) == seen_at(two, OUTSIDE) == UPLINK
        nets.teardown()
        assert seen_at(two, OUTSIDE) == UPLINK

    own_machine(tmp_path, work)


def test_without_an_uplink_containers_still_reach_each_other(tmp_path: Path) -> None:
    def work() -> None:
        ip("route del default\n")
        nets = Attachments(config(tmp_path))
        nets.prepare(set(), set())
        assert nets.reason is None and nets.egress_reason is not None and "no default route" in nets.egress_reason
        one, first = nets.attach(ONE, "acme")
        two, second = nets.attach(TWO, "acme")
        answering(two, second, 80)
        assert seen_at(one, second) == first

    own_machine(tmp_path, work)
