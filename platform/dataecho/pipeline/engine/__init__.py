"""The engine carries a plan out: pieces of work, a board that says what is next, and threads that do it.

A piece starts only when everything that it needs is there, so no piece ever waits for another; it ends exactly once, as
a result or as an error. What is next is decided by the board alone, which has no thread and no lock.
"""
