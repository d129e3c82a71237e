"""What runs beside JupyterHub: pricing and scheduling decide, the broker coordinates, the rest is I/O."""
