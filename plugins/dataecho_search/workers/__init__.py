"""Runs trials in processes, on this machine or on a Ray cluster; imports `study`."""
