"""The mesh around one stream: who trades with whom, who pushes what, what is pulled. Pure."""
