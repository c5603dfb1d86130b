"""How much was read and made, how long it took, and what memory it takes."""
