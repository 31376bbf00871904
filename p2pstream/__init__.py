"""p2pstream: live streaming in which every viewer is part of the edge.

The floors, from the ground up; imports point down or sideways, never up (tests/test_tidy.py):

    errors                          whose fault it is
    identity  metrics               keys and ids; counters
    core  access  wire              the four verbs; tickets; bytes <-> typed messages
    stream                          what a live stream is: epochs, heads, Merkle trees, pieces
    dht  swarm  playback            the cores: finding, trading, playing
    net  media                      hands: QUIC on trio; FFmpeg in a worker process
    node  config                    cores and hands put together
    bench                           what this machine can serve
    cli                             one module a command
"""

__version__ = "0.1.0"
