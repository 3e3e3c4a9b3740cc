"""Training files: their formats, the checks at the door, and the tokens they become."""
