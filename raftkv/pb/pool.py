"""The descriptor pool that holds raftkv's messages and nothing else.

Generated code normally registers in the process-wide pool, where a second etcd client with the same message names
would clash. A pool of our own lets raftkv live beside any of them.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
