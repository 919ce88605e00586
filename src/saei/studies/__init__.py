"""Many runs as one job: each a process of its own."""
