"""Who the members of a new cluster are, by the SRV records of a domain."""

from __future__ import annotations

import pytest

from raftkv.config import Config, StartError, load
from raftkv.server.joining import found_cluster
from raftkv.server.srv_records import NoRecordsError, Record, look_up, members_by_srv

PLAIN, SECURE = "_etcd-server._tcp.example.test", "_etcd-server-ssl._tcp.example.test"
THREE = [Record(0, f"n{number}.example.test", 2380) for number in (3, 1, 2)]
ADDRESSES = {f"n{number}.example.test": frozenset({f"10.0.0.{number}"}) for number in range(1, 4)}


def settings(number: int, *flags: str, url: str = "") -> Config:
    own = f"--initial-advertise-peer-urls={url or f'http://n{number}.example.test:2380'}"
    return load([f"--name=m{number}", own, "--discovery-srv=example.test", *flags], {})


def found(config: Config, **records: list[Record]) -> dict[str, list[str]]:
    names = {PLAIN: records.get("plain"), SECURE: records.get("secure")}

    def lookup(name: str) -> list[Record]:
        records = names[name.replace("-x._tcp", "._tcp")]
        if records is None:
            raise NoRecordsError(f"there is no {name}")
        return records

    members = members_by_srv(config, lookup, lambda host: ADDRESSES.get(host, frozenset({host})))
    return {name: [str(url) for url in urls] for name, urls in members.items()}


def test_each_member_finds_itself_and_the_others() -> None:
    """Others are numbered; all make the same cluster of it, whatever order the name server gives (CL-04, CL-05)."""
    assert found(settings(2), plain=THREE) == {
        "m2": ["http://n2.example.test:2380"],
        "0": ["http://n1.example.test:2380"],
        "1": ["http://n3.example.test:2380"],
    }
    foundings = []
    for number, records in ((1, THREE), (2, THREE[::-1]), (3, THREE[1:] + THREE[:1])):
        members = ",".join(f"{name}={urls[0]}" for name, urls in found(settings(number), plain=records).items())
        argv = [f"--name=m{number}", f"--initial-cluster={members}"]
        foundings.append(found_cluster(load([*argv, f"--initial-advertise-peer-urls=http://n{number}:1"], {})))
    assert len({each.cluster_id for each in foundings}) == 1
    assert len({each.member_id for each in foundings}) == 3


def test_a_member_that_advertises_its_address_finds_its_name() -> None:
    assert found(settings(1, url="http://10.0.0.1:2380"), plain=THREE)["m1"] == ["http://n1.example.test:2380"]


def test_with_tls_and_without() -> None:
    secure = found(settings(1, url="https://n1.example.test:2380"), secure=THREE)
    assert secure["m1"] == ["https://n1.example.test:2380"]
    both = found(settings(1), secure=[Record(0, "n9.example.test", 2380)], plain=THREE)
    assert list(both.values()) == [
        ["http://n1.example.test:2380"],
        ["https://n9.example.test:2380"],
        ["http://n2.example.test:2380"],
        ["http://n3.example.test:2380"],
    ]
    assert len(found(settings(1, "--discovery-srv-name=x"), plain=THREE)) == 3


def test_a_member_whose_name_is_a_number() -> None:
    config = load(["--name=1", "--initial-advertise-peer-urls=http://n2.example.test:2380", *SRV], {})
    assert set(found(config, plain=THREE)) == {"1", "0", "2"}


SRV = ("--discovery-srv=example.test",)


def test_no_records() -> None:
    with pytest.raises(StartError, match=rf"{SECURE}: there is no {SECURE}; {PLAIN}: there is no"):
        found(settings(1))


@pytest.mark.parametrize(
    "url", ["http://n9.example.test:2380", "http://n1.example.test:1", "https://n1.example.test:2380"]
)
def test_records_that_do_not_name_this_member(url: str) -> None:
    with pytest.raises(StartError, match=r"none of the SRV records of example\.test is this member") as refused:
        found(settings(1, url=url), plain=THREE)
    assert url in refused.value.text


@pytest.mark.parametrize("record", [Record(0, "@", 2380), Record(0, "a b", 2380), Record(0, "h/x", 2380)])
def test_a_record_that_names_no_host(record: Record) -> None:
    with pytest.raises(StartError, match=f"SRV record of {PLAIN} cannot be used"):
        found(settings(1), plain=[*THREE, record])


def test_a_name_that_cannot_be_looked_up() -> None:
    with pytest.raises(NoRecordsError):
        look_up(f"_etcd-server._tcp.{'x' * 64}.test")
