"""`python -m instruct_ipt` is `ipt`."""

from instruct_ipt.cli import main

main()
