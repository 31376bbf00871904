"""Whole meshes in virtual time: the real cores by the thousand, from one scenario file.

`scenario` says what may be written, `fabric` is the world, `simulation` runs one seed of one
scenario, `runner` runs several, `checkers` watch each run, `report` shows what happened.
"""
