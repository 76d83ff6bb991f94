"""The differential tester: one script of operations on raftkv and on the real etcd, every answer compared.

Reads from the bottom: `ops` (what a script is), `client` (how it is said to a server), `normalise` and `compare` (what
may differ), `known` (what does, on purpose), `watching`, `watchplay`, `streams`, `checks` and `runner` (playing a
script on both), `pair` (the servers), `strategies` (where scripts come from), `shrink`, `campaign` and `cli` (many
scripts, and what to print).
"""
