"""What stages do with each row: the request it becomes, what is kept of the reply, and what the manifest says of all rows."""
