"""How a command ends: 0 done, 1 failed, 2 wrong use, 3 done but a gate says no (withheld, not verified, a rule broken)."""

FAILED, WRONG_USE, GATE = 1, 2, 3
