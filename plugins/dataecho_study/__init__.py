"""Studies: the paper's figures as sweeps with claims written before, and a report after."""
