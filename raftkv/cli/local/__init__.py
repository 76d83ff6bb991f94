"""A cluster of processes on this machine, for `raftkv cluster`: its directory, its processes, and how it is looked at.

Owns nothing that a cluster needs: what is started here is `raftkv serve` with flags that anybody could type.
"""
