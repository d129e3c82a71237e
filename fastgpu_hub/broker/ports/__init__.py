"""The broker's ports: records it keeps and the Protocols through which it reaches the world."""
