"""Breaks a running cluster on purpose and judges what its clients saw.

Starts real members, puts Toxiproxy between them, injects faults by a plan that a seed decides, lets clients work
meanwhile, heals everything, and has checkers judge the recorded histories. Knows etcd's API and flags, and nothing of
raftkv's inside, so the same run can be pointed at the real etcd. The one exception is `chaos.broken`.
"""
