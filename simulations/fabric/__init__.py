"""A world in virtual time: one clock, hosts, links, NATs, and a light carrier between them."""
