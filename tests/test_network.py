"""Addresses of this machine, on networks made for the purpose in a namespace of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelhub_hpc import network
from modelhub_hpc.errors import UnfitError, UsageError

REPO = Path(__file__).resolve().parent.parent
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]

# a head node of two networks, one of them without IPv4; 127.0.1.1 is what Debian writes into /etc/hosts
NETWORKS = """
ip link set lo up
ip link add inside type veth peer name peer0 && ip link set inside up && ip link set peer0 up
ip address add 10.9.8.7/24 dev inside
ip address add fd00:9::7/64 dev inside nodad
ip link add modern type veth peer name peer1 && ip link set modern up && ip link set peer1 up
ip address add fd00:8::7/64 dev modern nodad
printf '127.0.0.1 localhost\\n127.0.1.1 head\\n10.9.8.1 control\\nfd00:9::1 control control6\\n' > {hosts}
mount --bind {hosts} /etc/hosts
"""


def in_namespace(tmp_path: Path, call: str, more: str = "") -> str:
    """What an expression gives on such a machine; an error's text where it raises one."""
    veth = "ip link add name one type veth peer name two".split()
    if subprocess.run([*UNSHARE, *veth], capture_output=True).returncode:
        pytest.skip("needs user namespaces and iproute2")
    code = (
        "from modelhub_hpc.network import *\nfrom modelhub_hpc.errors import ModelHubError\n"
        f"try: print({call})\nexcept ModelHubError as error: print(type(error).__name__, error)"
    )
    script = f"set -e\n{NETWORKS.format(hosts=tmp_path / 'hosts')}\n{more}\nexec \"$0\" -c \"$1\""
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", script, sys.executable, code], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "host, expected",
    [
        ("127.0.0.1", "127.0.0.1"),  # a cluster that is all here
        ("localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("10.9.8.1", "10.9.8.7"),
        ("control", "10.9.8.7"),  # SLURM talks IPv4 where there is both
        ("control6", "fd00:9::7"),
        ("fd00:8::1", "fd00:8::7"),
        ("10.9.8.7", "10.9.8.7"),  # this machine
        ("head", "10.9.8.7"),  # and by a name that is for itself alone
    ],
)
def test_the_way_to_a_host(host: str, expected: str, tmp_path: Path) -> None:
    assert in_namespace(tmp_path, f"address_towards({host!r})") == expected


def test_of_two_networks_the_default_route_is_the_one_for_others(tmp_path: Path) -> None:
    more = "ip link add wide type veth peer name peer2; ip link set wide up; ip link set peer2 up\n"
    more += "ip address add 172.20.0.5/16 dev wide; ip route add default via 172.20.0.1"
    assert in_namespace(tmp_path, "address_towards('head')", more) == "172.20.0.5"


def test_a_machine_with_no_network_has_itself(tmp_path: Path) -> None:
    more = "ip link delete inside; ip link delete modern"
    assert in_namespace(tmp_path, "address_towards('head')", more).startswith("127.")


def test_no_way_to_a_host(tmp_path: Path) -> None:
    said = in_namespace(tmp_path, "address_towards('198.51.100.7')")
    assert said.startswith("UnfitError No network of this machine leads to 198.51.100.7.") and "--interface" in said


@pytest.mark.parametrize("host", ["no-such-host.invalid", "", "x" * 300])
def test_a_name_that_is_none(host: str) -> None:
    with pytest.raises(UnfitError, match="has no address on this machine(.|\n)*--interface"):
        network.address_towards(host)


def test_addresses_of_interfaces(tmp_path: Path) -> None:
    assert in_namespace(tmp_path, "address_of('inside'), address_of('modern')") == "10.9.8.7 fd00:8::7"
    assert network.address_of("lo") == "127.0.0.1"


def test_an_interface_without_an_address(tmp_path: Path) -> None:
    said = in_namespace(tmp_path, "address_of('peer0')")
    assert said.startswith("UsageError The network interface peer0 has no address here.\n")
    assert "inside (10.9.8.7)" in said and "modern (fd00:8::7)" in said and "peer0 (" not in said


@pytest.mark.parametrize("name", ["ib7", "", "a-name-that-is-longer-than-any", "eth\udcff"])
def test_an_interface_that_does_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match=r"does not exist here\.\nThose with one: (.*, )?lo \(127\.0\.0\.1\)"):
        network.address_of(name)
