"""What this machine can serve: the measurements of `p2pstream bench` (`cli/bench.py` runs them).

`processes` are nodes on real sockets, each in a process of its own; `path` is a home's uplink in
virtual time; `others` are other people's transports, where they are installed; `page` draws it.
"""
