"""The command line: one module per sub-command, and the table that finds them.

Owns texts for the person at the terminal and exit codes. The server is imported only by the command that
starts it.
"""
