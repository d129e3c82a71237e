"""Alembic's environment and scripts; run by ``fastgpu_hub.store.migrate``."""
