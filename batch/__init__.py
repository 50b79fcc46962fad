"""Many prompts through the API of one or several ComfyUI servers.

workflow: the file and its nodes; catalogue: what servers say about node classes; values: what ``--set`` means;
jobs: every combination; pool: who does what; server: one ComfyUI over HTTP and its web socket; worker: feeds one
server; results: files that come back; manifest: what happened so far, on disk; run: all of it together.
"""
