"""The response header, spliced by hand: the bytes are protobuf's own."""

from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.api.header import HeaderEncoder
from raftkv.pb import rpc_pb2

U64 = st.integers(1, 2**64 - 1)
REVISIONS = st.integers(1, 2**63 - 1) | st.sampled_from([127, 128, 2**14 - 1, 2**14, 2**21, 2**28, 2**35])
TERMS = st.integers(0, 2**64 - 1)


def field(**header: int) -> bytes:
    """The header as field 1 of any response."""
    return rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(**header)).SerializeToString()


@given(cluster_id=U64, member_id=U64, answers=st.lists(st.tuples(REVISIONS, TERMS), min_size=1, max_size=6))
@example(cluster_id=1, member_id=1, answers=[(1, 0), (1, 1), (1, 0)])
def test_the_header_is_what_protobuf_would_write(
    cluster_id: int, member_id: int, answers: list[tuple[int, int]]
) -> None:
    """G-10 to G-12; one encoder over many terms."""
    encoder = HeaderEncoder(cluster_id, member_id)
    for revision, term in answers:
        ids = {"cluster_id": cluster_id, "member_id": member_id}
        assert encoder.encode(revision, term) == field(**ids, revision=revision, raft_term=term)
        assert encoder.without_revision(term) == field(**ids, raft_term=term)


@given(member_id=U64, term=TERMS)
def test_revision_zero_reads_as_zero(member_id: int, term: int) -> None:
    """W-40: protobuf would leave the field out, which a reader cannot tell."""
    header = rpc_pb2.PutResponse.FromString(HeaderEncoder(5, member_id).encode(0, term)).header
    assert header == rpc_pb2.ResponseHeader(cluster_id=5, member_id=member_id, raft_term=term)
