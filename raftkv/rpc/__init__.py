"""gRPC over HTTP/2, written for this project: connections without sockets, a listener, a channel.

Knows bytes, services as tables of handlers, and nothing of what the messages mean.
"""
