"""What the black-box tests share: server processes, the real etcd tools, gRPC stubs.

Knows raftkv only from outside: its command line, its ports and the generated messages.
"""
