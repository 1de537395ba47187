"""A study at work: the loop of tune(), Study for those who own their loop, and what both stand on.

May import: machine, propose, execute, report, follow.
"""
