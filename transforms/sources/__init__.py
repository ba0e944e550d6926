"""`[source]`: what turns stored data into batches of examples."""
