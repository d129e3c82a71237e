"""The hub service: REST API and pages over the broker, signed in through JupyterHub. I/O only, decides nothing."""
