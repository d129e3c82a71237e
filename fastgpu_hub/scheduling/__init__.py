"""Decides who gets which GPUs and when. Pure: standard library and pricing values; time is an argument."""
