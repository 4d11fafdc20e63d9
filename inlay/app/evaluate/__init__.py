"""What `inlay eval` and its kin do: tasks are asked, answers kept, shared and scored."""
