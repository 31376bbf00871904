"""Hands for the network: QUIC on trio, from certificates up to the carrier that cores talk to.

tls       who a peer is: certificates made and checked
engine    aioquic's connection, hardened; the one file that uses its private names
link      one connection to one peer, without hands: messages, parcels, priorities, limits
doorman   how many strangers may knock, and bans
udp       one socket, of the kernel or of a virtual network
endpoint  datagrams to links and back, timers
carrier   links to peers: dials, duplicates, bans; what a core's effects are performed by
drive     hands for one core
"""
