"""Published numbers, and how this library computes each of them.

Every module of this folder holds rows of one paper, in a list `ROWS`; a row is data and one function.  To add one, write a
module like `sohn2015`: nothing else has to know of it.
"""
