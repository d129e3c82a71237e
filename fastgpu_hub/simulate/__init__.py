"""Replays traces, real or made, through the scheduler and the predictor that run in production, on a virtual clock."""
