"""One file per stage of the replication; `instruct_ipt.stage_table` says what each reads and writes."""
