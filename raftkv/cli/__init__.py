"""The command line: one module per sub-command, and the table that finds them.

Owns texts for the person at the terminal and exit codes; `local` is what `raftkv cluster` is made of. The server is
imported only by the commands that need it, and only when they run.
"""
