"""Ids that every bootstrap member computes for itself: CL-04, CL-05."""

from raftkv.membership import added_member_id, cluster_id, member_id

TOKEN = "etcd-cluster"


def test_the_ids_of_a_lone_default_member_are_etcds() -> None:
    """What etcd logs when it is started without any flag."""
    own = member_id(["http://localhost:2380"], TOKEN)
    assert f"{own:x}" == "8e9e05c52164694d"
    assert f"{cluster_id([own]):x}" == "cdf818194e3a8c32"


def test_the_order_of_urls_and_members_does_not_matter() -> None:
    assert member_id(["http://a:1", "http://b:1"], TOKEN) == member_id(["http://b:1", "http://a:1"], TOKEN)
    assert cluster_id([1, 2**64 - 1, 7]) == cluster_id([7, 1, 2**64 - 1])


def test_another_token_is_another_cluster() -> None:
    urls = ["http://localhost:2380"]
    assert member_id(urls, TOKEN) != member_id(urls, "other")


def test_an_added_member_has_the_moment_instead_of_the_token() -> None:
    """CL-04: printf 'http://10.0.0.1:2380http://10.0.0.9:23801700000000' | sha1sum."""
    urls = ["http://10.0.0.9:2380", "http://10.0.0.1:2380"]
    assert f"{added_member_id(urls, 1_700_000_000):016x}" == "96fcebf4b5eb21bc"
    assert added_member_id(urls, 1_700_000_000) == added_member_id(sorted(urls), 1_700_000_000)
    assert added_member_id(urls, 1_700_000_000) != added_member_id(urls, 1_700_000_001)
