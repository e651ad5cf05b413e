"""Mat2Spec (Kong et al., Nat. Commun. 13, 949, 2022) and its losses."""
