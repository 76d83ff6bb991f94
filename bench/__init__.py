"""Measures raftkv beside the real etcd: a load generator, a side-by-side suite, a page of results.

Talks to servers over gRPC and /proc only, so it can measure any endpoint that speaks etcd v3. Of raftkv it
uses the channel (as the client), the listener (as the null server) and the messages.
"""
