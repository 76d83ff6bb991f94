"""raftkv with one defect each, to prove that the judge can fail.

`python -m chaos.broken.NAME serve ...` takes raftkv's flags. These modules are the only ones in `chaos` that know
raftkv's inside; each replaces one function and says which promise that breaks.
"""
