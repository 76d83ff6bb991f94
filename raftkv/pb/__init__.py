"""Generated protobuf messages of the etcd v3 API (`make proto` writes the `_pb2` modules from protos/).

Owns nothing else: no defaults, no helpers. Everything above may import it.
"""
