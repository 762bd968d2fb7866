"""Many pictures: where they come from, how they are asked about, and what is written.

sources ─▶ run ─▶ asker ─▶ outputs: tables and lines, or a journal and the formats made of it
"""
