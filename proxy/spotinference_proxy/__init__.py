"""Pass-through proxy in front of vLLM that writes a durable request log.

An answer passes as bytes; the same bytes are read for vLLM's own token counts, and the end of the answer
is released when its record is on disk. Nothing here knows what anything costs: the pipeline is another
distribution, and the two meet at the files described in docs/request-log.md.
"""
