"""The `model` tier: no nodes, only arrays. What it knows of p2pstream is the shape of the mesh and
a handful of constants that `calibration.py` took from runs of `core`; so it is quick, and knows
nothing that was not put into it.
"""
