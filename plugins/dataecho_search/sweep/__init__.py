"""Composes a sweep and runs its loop; imports every other room, and no room imports it."""
