"""What a viewer watches, and when: playout, bit-rate decisions, playlists. Pure."""
