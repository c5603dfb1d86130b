"""A setting of the C library: freed memory is kept."""

from __future__ import annotations

import numpy as np

_LARGEST = (32 << 20) - (64 << 10)


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next arrays, up to 64 MB for every heap.

    By default glibc takes what is larger than 128 KB from the system and gives it back when it is freed, and the free
    end of a heap as well: then every image that is decoded costs a page fault per 4 KB, a quarter of its time. Both
    bounds rise with the largest array that is freed, up to 32 MB (mallopt(3), M_MMAP_THRESHOLD); so one is, of which
    no page is ever touched. Other C libraries are not affected.
    """
    np.empty(_LARGEST, dtype=np.uint8)
