"""Fuzzing what comes from strangers, guided by coverage: `make fuzz`.

One module a target. It has `one(data)`, which does something with bytes and returns how many
messages that were, and `seeds()`, inputs to begin with. A crash is any exception out of `one`, so
each target lets pass the one error that its subject may raise, and checks what must hold.
"""
