"""Attacks on studies, by somebody who has only read what is promised; ``python -m tests.attacks`` runs them."""
