"""Ids that every bootstrap member computes for itself: CL-04, CL-05."""

from raftkv.membership import cluster_id, member_id

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
