"""Cores and hands put together: what a seed, a viewer and a broadcaster are made of."""
