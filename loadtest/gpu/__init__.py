"""The engine on a GPU: parity, times, and how far they are from what the card can do.

Needs torch and transformers alone, so that it runs from a bare checkout on any machine with a card.
"""
