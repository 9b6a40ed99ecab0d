"""A provider to run against: the smsroute API over real HTTP, with receipts, faults and a ledger.

What becomes of a message depends on its number alone, by the table in `number_table.py`. What goes wrong on the way
is set through the control port (`control.py`, `faults.py`).
"""
