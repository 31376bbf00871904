"""Media: from any source to key-frame-aligned chunks, in a worker process of its own.

The node imports `ingest`, `options` and `records`; `fragment` and `clockstrip` are pure. The other
modules load FFmpeg (PyAV) and run in the worker only: what parses hostile media holds no keys, and
what crashes there is restarted.
"""
