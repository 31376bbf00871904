"""Kademlia, hardened: how nodes find who has a stream."""
