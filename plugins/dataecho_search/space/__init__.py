"""Reads what is searched from overrides; imports no other room."""
