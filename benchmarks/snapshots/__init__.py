"""What a day of minute snapshots costs: requests, processor time, bytes."""
