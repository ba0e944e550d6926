"""Programs that run as processes of their own; `transforms.child_process` starts them."""
