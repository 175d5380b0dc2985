"""What it costs to make past days that nobody watched from Hyperstack's books: time, requests, bytes, memory."""
